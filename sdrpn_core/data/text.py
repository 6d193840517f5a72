"""Texts that strangers wrote: what every later stage may rely on."""

from __future__ import annotations

from sdrpn_core.errors import InputError

__all__ = ["check_question", "check_text", "encodable"]


def check_text(text: object, what: str) -> None:
    """Refuse what cannot be encoded: neither tokenizers nor files take it.

    Args:
        text: The text. Half a surrogate pair comes from an escape in JSON, or from a terminal whose
            bytes are not UTF-8.
        what: What the text is, for the message.

    Raises:
        InputError: It is not valid Unicode, or no text.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} is not valid Unicode: half a surrogate pair at character {error.start}"
        ) from error


def check_question(text: object, *, what: str = "the question") -> None:
    """Check that a question can be asked.

    Args:
        text: The question.
        what: What to call it in the message.

    Raises:
        InputError: It is empty or blank, not valid Unicode, or no text.
    """
    check_text(text, what)
    if not str(text).strip():
        raise InputError(f"{what} is empty")


def encodable(text: object) -> str:
    """Return a text as a file can hold it: half a surrogate pair becomes its escape."""
    return str(text).encode("utf-8", "backslashreplace").decode()

"""Rows of conversations, as files for visual instruction tuning have them, turn by turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdrpn_core.data.fields import Row
from sdrpn_core.errors import InputError
from sdrpn_core.util.formatting import short_repr

__all__ = ["turns"]

_USER = ("human", "user")
_ASSISTANT = ("gpt", "assistant")

_PLACEHOLDER = "<image>"


def turns(conversation: Any, where: str) -> list[Row]:
    """Return the questions of a conversation, each with the response that follows it.

    Args:
        conversation: messages ``{"from": "human" | "gpt", "value": text}``, or with the keys
            ``role`` and ``content`` and the roles ``user`` and ``assistant``.
        where: the row's place, for messages.

    Returns:
        Per question ``question``, without the placeholders of images, and ``response`` and
        ``answer``, if a response follows.

    Raises:
        InputError: Messages of another kind or role, a response before any question, or no message.
    """
    if not isinstance(conversation, list) or not conversation:
        raise InputError(
            f"{where}: 'conversations' must be a list of messages, got {short_repr(conversation)}"
        )
    found: list[Row] = []
    for message in conversation:
        role, text = _message(message, where)
        if role in _USER:
            found.append({"question": text.replace(_PLACEHOLDER, "").strip()})
        elif not found or "response" in found[-1]:
            raise InputError(f"{where}: 'conversations' has a response without a question")
        else:
            found[-1] |= {"response": text, "answer": text}
    return found


def _message(message: Any, where: str) -> tuple[str, str]:
    if isinstance(message, Mapping):
        role = message.get("from", message.get("role"))
        text = message.get("value", message.get("content"))
        if role in (*_USER, *_ASSISTANT) and isinstance(text, str):
            return str(role), text
    raise InputError(
        f"{where}: 'conversations' must have messages of 'human' and 'gpt', got "
        f"{short_repr(message)}"
    )

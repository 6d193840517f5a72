"""Requests of lmms-eval as questions: both of its forms, or one line that says what is not served.

The prompt is the model's own chat template around one turn of the user, with the images first: what
the RPN was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from sdrpn_core import Question, open_image
from sdrpn_core.errors import InputError


def simple_question(text: str, visuals: Sequence[Any] | None) -> Question:
    """The question of a simple request.

    Args:
        text: its context.
        visuals: what ``doc_to_visual`` gives; videos are paths, sounds are mappings.

    Raises:
        InputError: anything but images.
    """
    return Question(text, tuple(_image(visual) for visual in visuals or ()))


def chat_question(messages: Sequence[Mapping[str, Any]]) -> Question:
    """The question of a chat request.

    Args:
        messages: what ``doc_to_messages`` gives: role, and content as text or as parts.

    Raises:
        InputError: other roles or more turns than one of the user, an image behind text, or
            anything but text and images.
    """
    roles = [str(message["role"]) for message in messages]
    if roles != ["user"]:
        raise InputError(
            f"the chat has the turns {', '.join(roles) or 'none'}, but sdrpn asks one user turn in "
            "the model's own chat template: try --force_simple"
        )
    content = messages[0]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    kinds = [str(part["type"]) for part in parts]
    if others := sorted(set(kinds) - {"image", "text"}):
        raise InputError(f"the chat holds {', '.join(others)}, but sdrpn sees images only")
    if kinds != sorted(kinds):
        raise InputError(
            "the chat shows an image behind text, but in sdrpn's prompt images come first: try "
            "--force_simple"
        )
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    return Question(text, tuple(_image(part["url"]) for part in parts if part["type"] == "image"))


def _image(visual: object) -> Image.Image:
    if not isinstance(visual, Image.Image):
        raise InputError(
            f"the request holds a visual of type {type(visual).__name__!r}, but sdrpn sees images "
            "only"
        )
    return open_image(visual)

"""What a pipeline may be called with, and the questions that it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sdrpn_core import Question
from sdrpn_core.errors import InputError

_IMAGE_TYPES = (str, bytes, Path, Image.Image)
_ROLES = "an input is a dict with images and text, or a chat that is one message of the user"


def as_inputs(images: Any, text: Any) -> Any:
    """The arguments of a call as one input, a list of them, or something that yields them.

    Raises:
        InputError: they fit together in no way.
    """
    if text is None:
        return _whole_inputs(images)
    if images is None:
        if isinstance(text, str) or _are_texts(text):
            raise InputError("the question has no image")
        return _whole_inputs(text)  # transformers' own pipeline takes chats as text
    if isinstance(text, str):
        return {"images": images, "text": text}
    if not isinstance(text, (list, tuple)) or not isinstance(images, (list, tuple)):
        raise InputError(
            "several questions are a list, and so are their images: one entry for each"
        )
    if len(images) != len(text):
        raise InputError(f"{len(text)} questions, but images for {len(images)}")
    return [{"images": one, "text": question} for one, question in zip(images, text, strict=True)]


def _whole_inputs(inputs: Any) -> Any:
    """Inputs that came without a text of their own, in a form that the base class tells apart."""
    if inputs is None or isinstance(inputs, _IMAGE_TYPES):
        raise InputError("there is no question: give text")
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if isinstance(inputs, tuple):
        return list(inputs)
    if isinstance(inputs, list) or _is_torch_dataset(inputs):
        return inputs
    if isinstance(inputs, Iterable):
        # The base class knows generators alone.
        return (one for one in inputs)
    raise InputError(f"{_ROLES}, not {type(inputs).__name__}")


def _are_texts(text: Any) -> bool:
    return isinstance(text, (list, tuple)) and all(isinstance(one, str) for one in text)


def _is_torch_dataset(inputs: Any) -> bool:
    from torch.utils.data import Dataset

    return isinstance(inputs, Dataset)


def as_question(one: Any) -> Question:
    """The question of one input.

    Args:
        one: ``{"images": ..., "text": ...}`` (or ``image``, ``question``), or a chat of
            transformers, whose only message is the user's.

    Raises:
        ImageError: an image cannot be read.
        InputError: it is none of these.
    """
    messages = getattr(one, "messages", None)  # how the base class wraps a chat
    if messages is not None:
        return _from_chat(messages)
    if not isinstance(one, Mapping):
        raise InputError(f"{_ROLES}, not {type(one).__name__}")
    images = one.get("images", one.get("image"))
    text = one.get("text", one.get("question"))
    if images is None or not isinstance(text, str):
        raise InputError(f"{_ROLES}; this one has {', '.join(map(str, one)) or 'nothing'}")
    return Question.about(images, text)


def _from_chat(messages: Any) -> Question:
    """The question of a chat: images first, as the prompt shows them, then the text."""
    if len(messages) != 1 or messages[0]["role"] != "user":
        raise InputError(f"{_ROLES}; this chat has {len(messages)} messages")
    content = messages[0]["content"]
    if not isinstance(content, (list, tuple)):
        raise InputError("the message has no image: its content is a list of parts")
    parts = list(_parts(content))
    images = [value for kind, value in parts if kind == "image"]
    texts = [value for kind, value in parts if kind == "text"]
    if not images or len(texts) != 1:
        raise InputError(
            f"a message has images and one text, not {len(images)} images and {len(texts)} texts"
        )
    return Question.about(images, texts[0])


def _parts(content: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield "text", part["text"]
        elif kind == "image" and (keys := [k for k in ("image", "path", "url") if k in part]):
            yield "image", part[keys[0]]
        else:
            raise InputError("a part of a message is a text or an image, with its text or path")

"""Walking over the pictures of a batch, prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from sdrpn_core.segments import ImageSegment, Prompt

T = TypeVar("T")


def per_picture(prompts: Sequence[Prompt], make: Callable[[ImageSegment], T]) -> list[list[T]]:
    """Per prompt, ``make`` of each of its pictures, called in order."""
    return [[make(image) for image in prompt.images] for prompt in prompts]

"""Budgets of pixels under which a stock processor keeps a number of visual tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_A_PIXEL = 1
"""The least budget: under it, a processor makes of any shape as few visual tokens as it can."""


def fitting_pixels(
    tokens: Callable[[int, int], int], least: int, most: int, limit: int
) -> tuple[int, int]:
    """Minimum and maximum of a processor's pixels for one image that may take so many tokens.

    Processors round whole visual tokens. What they enlarge to their minimum can so end above their
    maximum, and what is narrower than a token too, since no side is rounded to nothing.

    Args:
        tokens: what the processor makes of the image under a minimum and a maximum of pixels.
        least: minimum of the processor, in pixels.
        most: maximum of the processor, in pixels.
        limit: largest number of tokens.

    Returns:
        ``(least, most)`` if the image then keeps to the limit; lower ones otherwise, under which it
        does, and above which it no longer would.
    """

    def fits(pixels: int) -> bool:
        return tokens(min(least, pixels), pixels) <= limit

    if fits(most):
        return least, most
    low, high = _A_PIXEL, most
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return min(least, low), low


def fitting_options(processor: Any, size: tuple[int, int], limit: int | None) -> dict[str, Any]:
    """Options of a call under which a stock image processor keeps an image to a budget.

    Args:
        processor: limits the pixels of an image by ``size["shortest_edge"]`` and
            ``size["longest_edge"]``, and merges ``merge_size`` x ``merge_size`` patches into a
            token.
        size: (width, height) of the image, in pixels.
        limit: largest number of visual tokens; ``None``: what the processor makes of it.

    Returns:
        Arguments of the processor's call; none without a limit.
    """
    if limit is None:
        return {}
    width, height = size

    def tokens(least: int, most: int) -> int:
        limits = {"min_pixels": least, "max_pixels": most}
        n_patches = processor.get_number_of_image_patches(height, width, limits)
        return int(n_patches // processor.merge_size**2)

    given = processor.size["shortest_edge"], processor.size["longest_edge"]
    least, most = fitting_pixels(tokens, *given, limit)
    return {"size": {"shortest_edge": least, "longest_edge": most}}

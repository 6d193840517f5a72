"""Budgets of pixels under which a stock processor keeps a number of visual tokens."""

from __future__ import annotations

from collections.abc import Callable

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

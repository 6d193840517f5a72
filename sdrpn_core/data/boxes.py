"""Boxes against the image that they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from sdrpn_core.grid.geometry import Box

__all__ = ["KNOWN_BOX_MARGIN", "boxes_inside", "with_margin"]

KNOWN_BOX_MARGIN = 0.5
"""Margin on every side of a known box, relative to its longer side: the object fills half the crop
of it."""


def boxes_inside(boxes: Sequence[Box], size: tuple[int, int]) -> tuple[Box, ...]:
    """Return the parts of boxes that lie inside an image.

    Args:
        boxes: (x0, y0, x1, y1), half-open, in source pixels.
        size: (width, height) of the image.

    Raises:
        InputError: A box lies outside the image: it belongs to another one, or is in other units.
    """
    width, height = size
    inside = []
    for x0, y0, x1, y1 in boxes:
        clipped = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            raise InputError(
                f"box {[x0, y0, x1, y1]} lies outside the image of {width} x {height} pixels"
            )
        inside.append(clipped)
    return tuple(inside)


def with_margin(box: Box, margin: float, size: tuple[int, int]) -> Box:
    """Return a box with a margin on every side, within the image.

    Args:
        box: (x0, y0, x1, y1), half-open, in source pixels.
        margin: relative to the longer side of the box.
        size: (width, height) of the image.

    Raises:
        InputError: The box lies outside the image.
    """
    boxes_inside([box], size)
    x0, y0, x1, y1 = box
    width, height = size
    extra = round(margin * max(x1 - x0, y1 - y0))
    return max(0, x0 - extra), max(0, y0 - extra), min(width, x1 + extra), min(height, y1 + extra)

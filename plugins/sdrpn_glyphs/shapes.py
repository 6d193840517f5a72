"""The shapes and colors of which scenes are made. Boxes are half-open, in source pixels."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from PIL import ImageDraw

Box = tuple[int, int, int, int]
"""``(x0, y0, x1, y1)``."""
Rgb = tuple[int, int, int]

COLORS: MappingProxyType[str, Rgb] = MappingProxyType(
    {
        "red": (220, 35, 35),
        "green": (30, 160, 50),
        "blue": (40, 60, 220),
        "yellow": (240, 220, 40),
        "cyan": (50, 210, 225),
        "magenta": (215, 50, 205),
        "white": (245, 245, 245),
        "black": (15, 15, 15),
    }
)


def _inner(box: Box) -> Box:
    """The same box with inclusive ends, as ``ImageDraw`` takes it."""
    x0, y0, x1, y1 = box
    return x0, y0, x1 - 1, y1 - 1


def _circle(draw: ImageDraw.ImageDraw, box: Box, fill: Rgb | int) -> None:
    draw.ellipse(_inner(box), fill=fill)


def _square(draw: ImageDraw.ImageDraw, box: Box, fill: Rgb | int) -> None:
    draw.rectangle(_inner(box), fill=fill)


def _triangle(draw: ImageDraw.ImageDraw, box: Box, fill: Rgb | int) -> None:
    x0, y0, x1, y1 = _inner(box)
    draw.polygon([((x0 + x1) / 2, y0), (x1, y1), (x0, y1)], fill=fill)


def _diamond(draw: ImageDraw.ImageDraw, box: Box, fill: Rgb | int) -> None:
    x0, y0, x1, y1 = _inner(box)
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    draw.polygon([(middle_x, y0), (x1, middle_y), (middle_x, y1), (x0, middle_y)], fill=fill)


def _cross(draw: ImageDraw.ImageDraw, box: Box, fill: Rgb | int) -> None:
    x0, y0, x1, y1 = _inner(box)
    arm = round((x1 - x0) * 0.3)
    draw.rectangle((x0 + arm, y0, x1 - arm, y1), fill=fill)
    draw.rectangle((x0, y0 + arm, x1, y1 - arm), fill=fill)


Painter = Callable[[ImageDraw.ImageDraw, Box, "Rgb | int"], None]

KINDS: MappingProxyType[str, Painter] = MappingProxyType(
    {
        "circle": _circle,
        "square": _square,
        "triangle": _triangle,
        "diamond": _diamond,
        "cross": _cross,
    }
)

"""The details that questions ask for: what an object carries in its middle."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from PIL import ImageDraw, ImageFont

from sdrpn_glyphs.shapes import COLORS, Box, Rgb

CHARACTERS = ("2", "3", "4", "5", "6", "7", "8", "9", "c", "e", "h", "k", "r", "t", "x", "z")
"""Digits and letters that differ from each other, drawn as capitals."""
DIRECTIONS = ("up", "down", "left", "right")
PIP_COUNTS = ("2", "3", "4", "5")

VALUES: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {"dot": tuple(COLORS), "character": CHARACTERS, "arrow": DIRECTIONS, "pips": PIP_COUNTS}
)
"""Kinds of marks, and the words that name what they show."""

ROOM: MappingProxyType[str, float] = MappingProxyType(
    {"circle": 0.6, "square": 0.66, "triangle": 0.46, "diamond": 0.48, "cross": 0.44}
)
"""Side of the square in the middle of an object that a mark may fill, relative to its width."""
CENTER: MappingProxyType[str, float] = MappingProxyType({"triangle": 0.66})
"""Height of that square's center, relative to the object's; a half where it is not given."""
DOT_DIAMETER = 0.2
"""Relative to the object's width."""
PIP_DIAMETER = 0.28
STROKE = 0.2
"""Relative to the room of the mark."""
PIPS: MappingProxyType[str, tuple[tuple[float, float], ...]] = MappingProxyType(
    {
        "2": ((0.15, 0.15), (0.85, 0.85)),
        "3": ((0.1, 0.1), (0.5, 0.5), (0.9, 0.9)),
        "4": ((0.15, 0.15), (0.85, 0.15), (0.15, 0.85), (0.85, 0.85)),
        "5": ((0.1, 0.1), (0.9, 0.1), (0.5, 0.5), (0.1, 0.9), (0.9, 0.9)),
    }
)
"""Centers, as on a die."""
DARK_INK: Rgb = (20, 20, 20)
LIGHT_INK: Rgb = (240, 240, 240)


@dataclass(frozen=True)
class Mark:
    """A detail: its kind, what it shows, and its color."""

    kind: str
    value: str
    rgb: Rgb


def room(kind: str, x: int, y: int, size: int) -> tuple[float, float, float, float]:
    """The square in which the mark of an object is drawn, ``(x0, y0, x1, y1)``."""
    half = ROOM[kind] * size / 2
    center_x, center_y = x + size / 2, y + size * CENTER.get(kind, 0.5)
    return center_x - half, center_y - half, center_x + half, center_y + half


def mark_box(mark: Mark, kind: str, x: int, y: int, size: int) -> Box:
    """The box of a mark in source pixels, as far as perception needs it."""
    x0, y0, x1, y1 = room(kind, x, y, size)
    if mark.kind == "dot":
        half, center_x, center_y = DOT_DIAMETER * size / 2, (x0 + x1) / 2, (y0 + y1) / 2
        x0, y0, x1, y1 = center_x - half, center_y - half, center_x + half, center_y + half
    return round(x0), round(y0), max(round(x0) + 2, round(x1)), max(round(y0) + 2, round(y1))


def ink(rng: random.Random, rgb: Rgb) -> Rgb:
    """Black on light colors, white on dark ones, with a little noise."""
    luminance = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]
    base = DARK_INK if luminance > 115 else LIGHT_INK
    red, green, blue = (value + rng.randint(-10, 10) for value in base)
    return red, green, blue


def draw_mark(draw: ImageDraw.ImageDraw, mark: Mark, kind: str, x: int, y: int, size: int) -> None:
    """Draw the mark of an object."""
    x0, y0, x1, y1 = room(kind, x, y, size)
    side = x1 - x0
    if mark.kind == "dot":
        left, top, right, bottom = mark_box(mark, kind, x, y, size)
        draw.ellipse((left, top, right - 1, bottom - 1), fill=mark.rgb)
    elif mark.kind == "pips":
        radius = max(1.0, PIP_DIAMETER * side / 2)
        for across, down in PIPS[mark.value]:
            at_x, at_y = x0 + across * side, y0 + down * side
            draw.ellipse((at_x - radius, at_y - radius, at_x + radius, at_y + radius), mark.rgb)
    elif mark.kind == "arrow":
        _draw_arrow(draw, mark, (x0, y0), side)
    else:
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        draw.text(middle, mark.value.upper(), mark.rgb, _font(round(side * 1.25)), anchor="mm")


def _draw_arrow(
    draw: ImageDraw.ImageDraw, mark: Mark, corner: tuple[float, float], side: float
) -> None:
    """A shaft and a head; drawn as if it pointed right, and turned."""
    half = STROKE / 2
    outline = [(0.0, 0.5 - half), (0.5, 0.5 - half), (0.5, 0.05), (1.0, 0.5)]
    outline += [(0.5, 0.95), (0.5, 0.5 + half), (0.0, 0.5 + half)]
    turned = []
    for x, y in outline:
        if mark.value == "left":
            x = 1 - x
        elif mark.value == "down":
            x, y = y, x
        elif mark.value == "up":
            x, y = y, 1 - x
        turned.append((corner[0] + x * side, corner[1] + y * side))
    draw.polygon(turned, fill=mark.rgb)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Aileron, which comes with Pillow."""
    return ImageFont.load_default(max(4, size))

"""Images of solid shapes, each with a small dot, and the exact boxes of the shapes.

A scene is drawn from a string key alone, so it is the same on every machine and in every process.
All coordinates are source pixels; boxes are ``(x0, y0, x1, y1)``, half-open.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from PIL import Image, ImageDraw

Box = tuple[int, int, int, int]
Rgb = tuple[int, int, int]

IMAGE_SIZE = 480
"""Width and height of every image, in pixels."""

FULL_BOX: Box = (0, 0, IMAGE_SIZE, IMAGE_SIZE)

DOT_FRACTION = 0.2
"""Diameter of the dot relative to the width of its shape."""

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
COLOR_JITTER = 12
BACKGROUND_RANGE = (95, 165)
BACKGROUND_TINT = 12
GAP = 4
"""Minimum distance between two shapes, and between a shape and the border, in pixels."""
PLACEMENT_TRIES = 60


@dataclass(frozen=True)
class Shape:
    """A solid shape in a ``size`` x ``size`` square at (``x``, ``y``), with a dot inside."""

    kind: str
    color: str
    dot: str
    x: int
    y: int
    size: int
    rgb: Rgb
    dot_rgb: Rgb

    @property
    def box(self) -> Box:
        """The tight box of the shape."""
        return self.x, self.y, self.x + self.size, self.y + self.size

    @property
    def dot_box(self) -> Box:
        """The tight box of the dot. In a triangle it is lower, where there is room for it."""
        width = max(2, round(self.size * DOT_FRACTION))
        height_fraction = 0.64 if self.kind == "triangle" else 0.5
        x0 = round(self.x + self.size / 2 - width / 2)
        y0 = round(self.y + self.size * height_fraction - width / 2)
        return x0, y0, x0 + width, y0 + width

    @property
    def center(self) -> tuple[float, float]:
        """The center of the box, ``(x, y)``."""
        return self.x + self.size / 2, self.y + self.size / 2


@dataclass(frozen=True)
class Scene:
    """A background and non-overlapping shapes of distinct colors."""

    background: Rgb
    shapes: tuple[Shape, ...]
    size: int = IMAGE_SIZE


@dataclass(frozen=True)
class SceneSpec:
    """How many shapes a scene has, and how wide they are relative to the image (inclusive).

    Attributes:
        count: at least and at most.
        width: of the narrowest and the widest.
        by_factor: draw widths evenly on a logarithmic scale, so that halving the width is as likely
            anywhere; else evenly on a linear one.
    """

    count: tuple[int, int]
    width: tuple[float, float]
    by_factor: bool = False

    def draw_width(self, rng: random.Random) -> float:
        """Draw the width of a shape."""
        if not self.by_factor:
            return rng.uniform(*self.width)
        low, high = map(math.log, self.width)
        return math.exp(rng.uniform(low, high))


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


def _jitter(rng: random.Random, rgb: Rgb, amount: int) -> Rgb:
    red, green, blue = (min(255, max(0, v + rng.randint(-amount, amount))) for v in rgb)
    return red, green, blue


def _overlaps(x: int, y: int, size: int, others: list[Shape]) -> bool:
    return any(
        x < o.x + o.size + GAP
        and o.x < x + size + GAP
        and y < o.y + o.size + GAP
        and o.y < y + size + GAP
        for o in others
    )


def make_scene(rng: random.Random, spec: SceneSpec) -> Scene:
    """Draw a scene from ``rng``. A shape for which there is no room is left out."""
    gray = rng.randint(*BACKGROUND_RANGE)
    background = _jitter(rng, (gray, gray, gray), BACKGROUND_TINT)
    shapes: list[Shape] = []
    for color in rng.sample(list(COLORS), rng.randint(*spec.count)):
        size = round(spec.draw_width(rng) * IMAGE_SIZE)
        for _ in range(PLACEMENT_TRIES):
            x = rng.randint(GAP, IMAGE_SIZE - GAP - size)
            y = rng.randint(GAP, IMAGE_SIZE - GAP - size)
            if not _overlaps(x, y, size, shapes):
                break
        else:
            continue
        dot = rng.choice([name for name in COLORS if name != color])
        shapes.append(
            Shape(
                kind=rng.choice(list(KINDS)),
                color=color,
                dot=dot,
                x=x,
                y=y,
                size=size,
                rgb=_jitter(rng, COLORS[color], COLOR_JITTER),
                dot_rgb=_jitter(rng, COLORS[dot], COLOR_JITTER),
            )
        )
    return Scene(background, tuple(shapes))


def render(scene: Scene) -> Image.Image:
    """Render the scene as an RGB image, ``scene.size`` pixels wide and high."""
    image = Image.new("RGB", (scene.size, scene.size), scene.background)
    draw = ImageDraw.Draw(image)
    for shape in scene.shapes:
        KINDS[shape.kind](draw, shape.box, shape.rgb)
        draw.ellipse(_inner(shape.dot_box), fill=shape.dot_rgb)
    return image


DOT_INDEX_OFFSET = 16


def render_index(scene: Scene) -> Image.Image:
    """Render which shape each pixel belongs to, in mode "L".

    0 is the background, 1 + i is shape i, 17 + i is the dot of shape i.
    """
    image = Image.new("L", (scene.size, scene.size), 0)
    draw = ImageDraw.Draw(image)
    for i, shape in enumerate(scene.shapes, start=1):
        KINDS[shape.kind](draw, shape.box, i)
        draw.ellipse(_inner(shape.dot_box), fill=i + DOT_INDEX_OFFSET)
    return image

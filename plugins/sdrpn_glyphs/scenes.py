"""Scenes: marked objects of distinct colors among clutter, on a textured background.

Boxes are ``(x0, y0, x1, y1)``, half-open, in source pixels. Widths of objects are relative to the
longer side of the image.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from sdrpn_glyphs.backgrounds import background, camera
from sdrpn_glyphs.marks import VALUES, Mark, draw_mark, ink, mark_box
from sdrpn_glyphs.shapes import COLORS, KINDS, Box, Rgb

LONG_SIDE = 480
"""Longer side of every image, in pixels."""
MAX_ASPECT = 3.0
"""Of the longer to the shorter side."""
SQUARE_SHARE = 0.25
GAP = 4
"""Minimum distance between two objects, and between an object and the border, in pixels."""
MIN_SIDE = 9
"""Of anything drawn, in pixels."""
PLACEMENT_TRIES = 80
LARGEST = 0.9
"""Width of an object relative to the shorter side of the image, at most."""
COLOR_JITTER = 18
APART = 0.4
"""Distance of two objects that no single crop shows well, relative to the longer side."""

MAX_OBJECTS = 20
MIN_OBJECTS = 4
CLUTTER_WIDTH = (0.03, 0.12)
OUTLINE_SHARE = 0.3
"""Share of the clutter that is an outline in one of the objects' colors; the rest is muted."""
MUTED_RANGE = (50, 205)
MUTED_TINT = 22


@dataclass(frozen=True)
class SceneSpec:
    """What scenes look like.

    Attributes:
        width: of the objects that are asked about, from the smallest to the largest; drawn evenly
            on a logarithmic scale.
        others: how many other marked objects there are, at least and at most.
        other_width: of these.
        clutter: how many distractors there are, at least and at most.
    """

    width: tuple[float, float]
    others: tuple[int, int] = (1, 5)
    other_width: tuple[float, float] = (0.045, 0.25)
    clutter: tuple[int, int] = (1, 14)


@dataclass(frozen=True)
class Object:
    """A solid shape in a ``size`` x ``size`` square at (``x``, ``y``), with a mark in it."""

    kind: str
    color: str
    mark: Mark
    x: int
    y: int
    size: int
    rgb: Rgb

    @property
    def box(self) -> Box:
        """The tight box of the object."""
        return self.x, self.y, self.x + self.size, self.y + self.size

    @property
    def mark_box(self) -> Box:
        """The box of its mark."""
        return mark_box(self.mark, self.kind, self.x, self.y, self.size)

    @property
    def center(self) -> tuple[float, float]:
        """The center of the box, ``(x, y)``."""
        return self.x + self.size / 2, self.y + self.size / 2


@dataclass(frozen=True)
class Distractor:
    """A shape without a mark: solid and muted, or an outline of ``stroke`` pixels."""

    kind: str
    x: int
    y: int
    size: int
    rgb: Rgb
    stroke: int | None = None


@dataclass(frozen=True)
class Scene:
    """An image to be drawn.

    Attributes:
        size: ``(width, height)`` in pixels.
        objects: what questions are about.
        clutter: what they are not about.
        texture: seed of the background and of the camera.
    """

    size: tuple[int, int]
    objects: tuple[Object, ...]
    clutter: tuple[Distractor, ...]
    texture: int

    @property
    def full_box(self) -> Box:
        """The whole image."""
        return 0, 0, *self.size


Square = tuple[int, int, int]
"""``x``, ``y`` and side."""


def make_scene(
    rng: random.Random,
    spec: SceneSpec,
    marks: Sequence[tuple[str, str | None]],
    *,
    apart: bool = False,
    unseen: str | None = None,
) -> Scene:
    """Draw a scene whose first objects carry the given marks.

    Args:
        rng: decides.
        spec: what it looks like.
        marks: kind and value per asked object; a value of ``None`` is drawn.
        apart: keep the first two objects apart.
        unseen: a color that nothing has.
    """
    while True:
        scene = _try_scene(rng, spec, marks, unseen)
        if scene is not None and not (apart and _distance(scene) < APART * LONG_SIDE):
            return scene


def _distance(scene: Scene) -> float:
    (first, second, *_) = scene.objects
    return math.dist(first.center, second.center)


def _try_scene(
    rng: random.Random,
    spec: SceneSpec,
    marks: Sequence[tuple[str, str | None]],
    unseen: str | None,
) -> Scene | None:
    size = _image_size(rng)
    taken: list[Square] = []
    objects: list[Object] = []
    colors = [color for color in COLORS if color != unseen]
    rng.shuffle(colors)
    n_others = rng.randint(*spec.others)
    wanted: list[tuple[str, str | None]] = [*marks]
    wanted += [(rng.choice(list(VALUES)), None) for _ in range(n_others)]
    for number, (mark, value) in enumerate(wanted[: len(colors)]):
        asked = number < len(marks)
        low, high = spec.width if asked else spec.other_width
        width = math.exp(rng.uniform(math.log(low), math.log(high)))
        square = _place(rng, size, width, taken)
        if square is None:
            if asked:
                return None
            continue
        taken.append(square)
        objects.append(marked_object(rng, square, colors[number], mark, value))
    at_most = MAX_OBJECTS - len(objects)
    low, high = max(spec.clutter[0], MIN_OBJECTS - len(objects)), min(spec.clutter[1], at_most)
    clutter = []
    for _ in range(rng.randint(low, max(low, high))):
        square = _place(rng, size, rng.uniform(*CLUTTER_WIDTH), taken)
        if square is not None:
            taken.append(square)
            clutter.append(_distractor(rng, square, unseen))
    if len(objects) + len(clutter) < MIN_OBJECTS:
        return None
    return Scene(size, tuple(objects), tuple(clutter), rng.getrandbits(32))


def _image_size(rng: random.Random) -> tuple[int, int]:
    if rng.random() < SQUARE_SHARE:
        return LONG_SIDE, LONG_SIDE
    short = round(LONG_SIDE / math.exp(rng.uniform(0, math.log(MAX_ASPECT))))
    return (LONG_SIDE, short) if rng.random() < 0.5 else (short, LONG_SIDE)


def _place(
    rng: random.Random, size: tuple[int, int], width: float, taken: Sequence[Square]
) -> Square | None:
    side = max(MIN_SIDE, round(min(width * LONG_SIDE, LARGEST * min(size) - 2 * GAP)))
    for _ in range(PLACEMENT_TRIES):
        x = rng.randint(GAP, size[0] - GAP - side)
        y = rng.randint(GAP, size[1] - GAP - side)
        if not any(
            x < left + other + GAP
            and left < x + side + GAP
            and y < top + other + GAP
            and top < y + side + GAP
            for left, top, other in taken
        ):
            return x, y, side
    return None


def marked_object(
    rng: random.Random, square: Square, color: str, mark: str, value: str | None
) -> Object:
    """Draw an object of any kind; a value of ``None`` is drawn, too."""
    x, y, side = square
    rgb = _jittered(rng, COLORS[color], COLOR_JITTER)
    shown = value or rng.choice([word for word in VALUES[mark] if word != color])
    shade = _jittered(rng, COLORS[shown], COLOR_JITTER) if mark == "dot" else ink(rng, rgb)
    return Object(rng.choice(list(KINDS)), color, Mark(mark, shown, shade), x, y, side, rgb)


def _distractor(rng: random.Random, square: Square, unseen: str | None) -> Distractor:
    x, y, side = square
    if rng.random() < OUTLINE_SHARE:
        color = rng.choice([name for name in COLORS if name != unseen])
        rgb = _jittered(rng, COLORS[color], COLOR_JITTER)
        return Distractor(rng.choice(list(KINDS)), x, y, side, rgb, max(1, side // 14))
    gray = rng.randint(*MUTED_RANGE)
    rgb = _jittered(rng, (gray, gray, gray), MUTED_TINT)
    return Distractor(rng.choice(list(KINDS)), x, y, side, rgb)


def _jittered(rng: random.Random, rgb: Rgb, amount: int) -> Rgb:
    red, green, blue = (min(255, max(0, v + rng.randint(-amount, amount))) for v in rgb)
    return red, green, blue


def render(scene: Scene) -> Image.Image:
    """Render the scene as an RGB image of ``scene.size``."""
    rng = np.random.default_rng(scene.texture)
    image = background(rng, scene.size)
    draw = ImageDraw.Draw(image)
    for one in scene.clutter:
        _draw_distractor(image, draw, one)
    for shown in scene.objects:
        KINDS[shown.kind](draw, shown.box, shown.rgb)
        draw_mark(draw, shown.mark, shown.kind, shown.x, shown.y, shown.size)
    return camera(rng, image)


def _draw_distractor(image: Image.Image, draw: ImageDraw.ImageDraw, one: Distractor) -> None:
    box = (one.x, one.y, one.x + one.size, one.y + one.size)
    if one.stroke is None:
        KINDS[one.kind](draw, box, one.rgb)
        return
    # The shape less a smaller one: the outline of any kind.
    mask = Image.new("L", (one.size, one.size), 0)
    drawn = ImageDraw.Draw(mask)
    inset = 2 * one.stroke
    KINDS[one.kind](drawn, (0, 0, one.size, one.size), 255)
    KINDS[one.kind](drawn, (inset, inset, one.size - inset, one.size - inset), 0)
    image.paste(one.rgb, (one.x, one.y), mask)


def render_index(scene: Scene) -> Image.Image:
    """Render which object each pixel belongs to, in mode "L": 0 is none, 1 + i is object i."""
    image = Image.new("L", scene.size, 0)
    draw = ImageDraw.Draw(image)
    for index, shown in enumerate(scene.objects, start=1):
        KINDS[shown.kind](draw, shown.box, index)
    return image

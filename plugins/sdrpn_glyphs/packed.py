"""Scenes packed with large marked objects: what an encoder learns marks from.

Questions are about one object among clutter, whose mark covers a few cells of an image; here
nearly every cell shows a part of a mark.
"""

from __future__ import annotations

import math
import random
from types import MappingProxyType

from sdrpn_glyphs.scenes import Object, Scene, Square, marked_object
from sdrpn_glyphs.shapes import COLORS

LONG_SIDE = 240
"""Longer side, in pixels."""
MAX_ASPECT = 1.8
"""Of the longer to the shorter side."""
PER_SIDE = (2, 2, 3)
"""Objects per row and column; one is drawn."""
FILL = (0.7, 0.97)
"""Width of an object relative to its share of the image."""
MARKS: MappingProxyType[str, float] = MappingProxyType(
    {"dot": 0.15, "character": 0.45, "arrow": 0.2, "pips": 0.2}
)
"""Kinds of marks, with weights: the harder, the more."""


def packed_scene(rng: random.Random, max_aspect: float = MAX_ASPECT) -> Scene:
    """Draw one; colors repeat."""
    short = round(LONG_SIDE / math.exp(rng.uniform(0, math.log(max_aspect))))
    size = (LONG_SIDE, short) if rng.random() < 0.5 else (short, LONG_SIDE)
    per_side = rng.choice(PER_SIDE)
    objects: list[Object] = []
    for column in range(per_side):
        for row in range(per_side):
            (kind,) = rng.choices(list(MARKS), list(MARKS.values()))
            square = _square(rng, (size[0] / per_side, size[1] / per_side), column, row)
            objects.append(marked_object(rng, square, rng.choice(list(COLORS)), kind, None))
    return Scene(size, tuple(objects), (), rng.getrandbits(32))


def _square(rng: random.Random, room: tuple[float, float], column: int, row: int) -> Square:
    """A place for an object in its share of the image."""
    side = int(min(room) * rng.uniform(*FILL))
    x = int(column * room[0] + rng.uniform(0, room[0] - side))
    y = int(row * room[1] + rng.uniform(0, room[1] - side))
    return x, y, side

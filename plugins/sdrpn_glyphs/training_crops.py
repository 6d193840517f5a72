"""Crops of a training run, which imitate predicted regions rather than perfect ones."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np

from sdrpn_glyphs.cell_geometry import in_cells
from sdrpn_glyphs.scenes import LONG_SIDE, Object, Scene
from sdrpn_glyphs.shapes import Box

if TYPE_CHECKING:
    from sdrpn_core.grid.geometry import Geometry

CELL = LONG_SIDE // 10
"""Side of a cell of the nominal grid to which training crops snap, in source pixels."""
MIN_CROP = 16
"""Minimum side of a training crop, in source pixels: some encoders refuse smaller ones."""

MIN_KEPT = 10
"""Tokens of a crop that are kept at least; a blob of fewer keeps them all."""


def _clipped(size: tuple[int, int], x0: float, y0: float, x1: float, y1: float) -> Box:
    left = min(size[0] - MIN_CROP, max(0, round(x0)))
    top = min(size[1] - MIN_CROP, max(0, round(y0)))
    right, bottom = min(size[0], round(x1)), min(size[1], round(y1))
    return left, top, max(left + MIN_CROP, right), max(top + MIN_CROP, bottom)


def cell_crop(rng: random.Random, size: tuple[int, int], one: Object) -> Box:
    """Whole grid cells around an object, up to two more on each side."""
    x0, y0, x1, y1 = one.box
    grow = [rng.choice((0, 0, 0.5, 0.5, 1, 1, 1.5)) for _ in range(4)]
    return _clipped(
        size,
        CELL * (x0 // CELL - grow[0]),
        CELL * (y0 // CELL - grow[1]),
        CELL * (-(-x1 // CELL) + grow[2]),
        CELL * (-(-y1 // CELL) + grow[3]),
    )


def margin_crop(rng: random.Random, size: tuple[int, int], one: Object) -> Box:
    """The object's box with a random margin on each side, up to its width."""
    x0, y0, x1, y1 = one.box
    grow = [rng.uniform(0.05, 1.0) * one.size for _ in range(4)]
    return _clipped(size, x0 - grow[0], y0 - grow[1], x1 + grow[2], y1 + grow[3])


def stray_crop(rng: random.Random, size: tuple[int, int]) -> Box:
    """A box of 2 to 5 cells per side at a random position: a wrongly predicted region."""
    width, height = (min(side, CELL * rng.randint(2, 5)) for side in size)
    left, top = rng.randint(0, size[0] - width), rng.randint(0, size[1] - height)
    return _clipped(size, left, top, left + width, top + height)


def object_crop(rng: random.Random, scene: Scene, one: Object) -> Box:
    """A crop around an object."""
    make = cell_crop if rng.random() < 0.6 else margin_crop
    return make(rng, scene.size, one)


def wrong_crop(rng: random.Random, scene: Scene) -> Box:
    """A crop that shows something else, or nothing."""
    if rng.random() < 0.5:
        return stray_crop(rng, scene.size)
    return object_crop(rng, scene, rng.choice(scene.objects))


def kept_tokens(rng: random.Random, crop: Box, one: Object, geometry: Geometry) -> np.ndarray:
    """Which tokens of a crop a region mask keeps: bool ``(h, w)``, a rough blob on an object.

    Imitates the policy that crops one enclosing box and drops the tokens outside the region.
    """
    rows, columns = np.mgrid[0 : geometry.grid[0], 0 : geometry.grid[1]] + 0.5
    x0, y0, x1, y1 = in_cells(geometry, one.box, crop)
    center_x = (x0 + x1) / 2 + rng.uniform(-1, 1)
    center_y = (y0 + y1) / 2 + rng.uniform(-1, 1)
    radius_x = (x1 - x0) * rng.uniform(0.6, 1.5) + rng.uniform(1, 3)
    radius_y = (y1 - y0) * rng.uniform(0.6, 1.5) + rng.uniform(1, 3)
    power = rng.choice((2, 8))
    inside = np.abs((columns - center_x) / radius_x) ** power
    inside += np.abs((rows - center_y) / radius_y) ** power
    kept = inside <= 1
    return kept if kept.sum() >= MIN_KEPT else np.ones(geometry.grid, bool)

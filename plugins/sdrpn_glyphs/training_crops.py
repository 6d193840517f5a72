"""Crops of a training run, which imitate predicted regions rather than perfect ones."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np

from .patch_labels import in_cells
from .scenes import IMAGE_SIZE, Box, Shape

if TYPE_CHECKING:
    from sdrpn_core.grid.geometry import Geometry

GRID = 10
CELL = IMAGE_SIZE // GRID
"""Side of a cell of the nominal grid to which training crops snap, in source pixels."""
MIN_CROP = 16
"""Minimum side of a training crop, in source pixels: some encoders refuse smaller ones."""


def _clip(x0: float, y0: float, x1: float, y1: float) -> Box:
    """Clip a box to the image; it stays at least ``MIN_CROP`` pixels wide and high."""
    left, top = (min(IMAGE_SIZE - MIN_CROP, max(0, round(v))) for v in (x0, y0))
    right, bottom = (min(IMAGE_SIZE, round(v)) for v in (x1, y1))
    return left, top, max(left + MIN_CROP, right), max(top + MIN_CROP, bottom)


def cell_crop(rng: random.Random, shape: Shape) -> Box:
    """Whole grid cells around the shape, up to two more on each side, sometimes off by one."""
    x0, y0, x1, y1 = shape.box
    left, top = x0 // CELL, y0 // CELL
    right, bottom = -(-x1 // CELL), -(-y1 // CELL)
    grow = [rng.choice((0, 0, 1, 1, 1, 2)) for _ in range(4)]
    shift_x, shift_y = (rng.choice((-1, 0, 0, 0, 1)) for _ in range(2))
    return _clip(
        CELL * (left - grow[0] + shift_x),
        CELL * (top - grow[1] + shift_y),
        CELL * (right + grow[2] + shift_x),
        CELL * (bottom + grow[3] + shift_y),
    )


def margin_crop(rng: random.Random, shape: Shape) -> Box:
    """The shape's box with a random margin on each side, up to 1.5 times its width."""
    x0, y0, x1, y1 = shape.box
    grow = [rng.uniform(0.05, 1.5) * shape.size for _ in range(4)]
    return _clip(x0 - grow[0], y0 - grow[1], x1 + grow[2], y1 + grow[3])


def stray_crop(rng: random.Random) -> Box:
    """A box of 2 to 5 cells per side at a random position: a wrongly predicted region."""
    width, height = (rng.randint(2, 5) for _ in range(2))
    left, top = rng.randint(0, GRID - width), rng.randint(0, GRID - height)
    return _clip(CELL * left, CELL * top, CELL * (left + width), CELL * (top + height))


def training_crop(rng: random.Random, shape: Shape) -> Box:
    """A crop as a region proposal would give it: usually around the shape, sometimes off target."""
    draw = rng.random()
    if draw < 0.62:
        return cell_crop(rng, shape)
    if draw < 0.92:
        return margin_crop(rng, shape)
    return stray_crop(rng)


def kept_tokens(rng: random.Random, crop: Box, shape: Shape, geometry: Geometry) -> np.ndarray:
    """Which tokens of a crop a region mask keeps: bool ``(h, w)``, a rough blob on the shape.

    Imitates the policy that crops one enclosing box and drops the tokens outside the region.
    """
    rows, columns = np.mgrid[0 : geometry.grid[0], 0 : geometry.grid[1]] + 0.5
    x0, y0, x1, y1 = in_cells(geometry, shape.box, crop)
    center_x = (x0 + x1) / 2 + rng.uniform(-1, 1)
    center_y = (y0 + y1) / 2 + rng.uniform(-1, 1)
    radius_x = (x1 - x0) * rng.uniform(0.6, 1.5) + rng.uniform(1, 3)
    radius_y = (y1 - y0) * rng.uniform(0.6, 1.5) + rng.uniform(1, 3)
    power = rng.choice((2, 8))
    inside = np.abs((columns - center_x) / radius_x) ** power
    inside += np.abs((rows - center_y) / radius_y) ** power
    kept = inside <= 1
    return kept if kept.sum() >= GRID else np.ones(geometry.grid, bool)

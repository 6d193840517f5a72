"""What a model is shown of a scene: the whole image, or a crop of it.

Labels of the visual tokens of such a view, whatever the geometry, and the crops of a training run,
which imitate predicted regions rather than perfect ones.
"""

from __future__ import annotations

import random
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from .families.base import CELL_PIXELS
from .questions import POSITION_BINS
from .scenes import COLORS, DOT_INDEX_OFFSET, IMAGE_SIZE, KINDS, Box, Scene, Shape

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.grid.geometry import Geometry

GRID = 10
CELL = IMAGE_SIZE // GRID
"""Source pixels, a side, of a cell of the nominal grid to which the crops of training snap."""
FULL_BOX: Box = (0, 0, IMAGE_SIZE, IMAGE_SIZE)

MIN_CROP = 16
"""Least side of a training crop, in source pixels: some encoders refuse smaller ones."""

SAMPLES = CELL_PIXELS
"""Points per side of a cell at which the scene is looked up: one per pixel of the model input."""
MIN_COVERAGE = 5
"""Points (of 64) of a cell that a shape has to cover to count as seen in it."""
MIN_DOT_COVERAGE = 2
"""Points (of 64) of a cell that a dot has to cover to be labeled as lying in it."""
MIN_DOT_PIXELS = 1.6
"""Diameter at model resolution below which a dot is not labeled: nobody could name its color."""

LABELS: MappingProxyType[str, slice] = MappingProxyType(
    {
        "color": slice(0, 8),
        "dot": slice(8, 16),
        "kind": slice(16, 21),
        "column": slice(21, 31),
        "row": slice(31, 41),
        "dot here": slice(41, 49),
    }
)
"""Where each group of per-patch labels lies along the last axis."""
LABEL_COUNT = 49


def patch_labels(
    scene: Scene, index: Image.Image, box: Box, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the visual tokens that show ``box`` of a scene.

    Args:
        scene: the scene.
        index: its ``render_index`` image.
        box: what is shown, in source pixels.
        geometry: where the cells of the grid (h, w) lie in it.

    Returns:
        Two uint8 arrays (h * w, LABEL_COUNT): the labels, 0 or 1, and which of them count. The dot
        and the center of a shape are labeled on every cell that the shape covers.
    """
    rows, columns = geometry.grid
    shown = _sampled(np.asarray(index.crop(box)), geometry)
    cells = shown.reshape(rows, SAMPLES, columns, SAMPLES)
    labels = np.zeros((rows, columns, LABEL_COUNT), np.uint8)
    counts = np.ones_like(labels)
    color_names, kind_names = list(COLORS), list(KINDS)
    for i, shape in enumerate(scene.shapes, start=1):
        is_dot = cells == i + DOT_INDEX_OFFSET
        covered = ((cells == i) | is_dot).sum(axis=(1, 3)) >= MIN_COVERAGE
        if not covered.any():
            continue
        labels[covered, LABELS["color"].start + color_names.index(shape.color)] = 1
        labels[covered, LABELS["kind"].start + kind_names.index(shape.kind)] = 1
        x0, y0, x1, y1 = _in_cells(geometry, shape.dot_box, box) * SAMPLES
        if min(x1 - x0, y1 - y0) >= MIN_DOT_PIXELS and is_dot.sum() >= (x1 - x0) * (y1 - y0) / 3:
            dot = color_names.index(shape.dot)
            labels[covered, LABELS["dot"].start + dot] = 1
            here = is_dot.sum(axis=(1, 3)) >= MIN_DOT_COVERAGE
            labels[here, LABELS["dot here"].start + dot] = 1
        else:
            counts[covered, LABELS["dot"]] = 0
        x0, y0, x1, y1 = _in_cells(geometry, shape.box, box)
        labels[covered, LABELS["column"].start + _bin((x0 + x1) / 2, columns)] = 1
        labels[covered, LABELS["row"].start + _bin((y0 + y1) / 2, rows)] = 1
    return labels.reshape(rows * columns, -1), counts.reshape(rows * columns, -1)


def _bin(place: float, cells: int) -> int:
    return min(POSITION_BINS - 1, max(0, int(place / cells * POSITION_BINS)))


def _in_cells(geometry: Geometry, box: Box, view: Box) -> np.ndarray:
    """A box of the scene in the cells of a view of it, as float64 (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    left, top, _, _ = view
    return geometry.to_grid([(x0 - left, y0 - top, x1 - left, y1 - top)])[0]


def _sampled(owners: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The pixels of a view at ``SAMPLES`` points a side of every cell; 0 in the padding."""
    height, width = owners.shape
    rows, columns = geometry.grid
    x0, y0, x1, y1 = geometry.to_grid([(0, 0, width, height)])[0]
    at_x = ((np.arange(columns * SAMPLES) + 0.5) / SAMPLES - x0) / (x1 - x0) * width
    at_y = ((np.arange(rows * SAMPLES) + 0.5) / SAMPLES - y0) / (y1 - y0) * height
    inside = np.outer((at_y >= 0) & (at_y < height), (at_x >= 0) & (at_x < width))
    at_x, at_y = (
        np.clip(at_x, 0, width - 1).astype(int),
        np.clip(at_y, 0, height - 1).astype(int),
    )
    return np.where(inside, owners[np.ix_(at_y, at_x)], 0)


def _clip(x0: float, y0: float, x1: float, y1: float) -> Box:
    """The box inside the image, at least ``MIN_CROP`` pixels wide and high."""
    left, top = (min(IMAGE_SIZE - MIN_CROP, max(0, round(v))) for v in (x0, y0))
    right, bottom = (min(IMAGE_SIZE, round(v)) for v in (x1, y1))
    return left, top, max(left + MIN_CROP, right), max(top + MIN_CROP, bottom)


def cell_crop(rng: random.Random, shape: Shape) -> Box:
    """Whole grid cells around the shape, up to two more on each side, at times off by one."""
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
    """The shape's box with a margin of its own on each side, up to 1.5 times its width."""
    x0, y0, x1, y1 = shape.box
    grow = [rng.uniform(0.05, 1.5) * shape.size for _ in range(4)]
    return _clip(x0 - grow[0], y0 - grow[1], x1 + grow[2], y1 + grow[3])


def stray_crop(rng: random.Random) -> Box:
    """A box of 2 to 5 cells a side anywhere: a region that was predicted wrongly."""
    width, height = (rng.randint(2, 5) for _ in range(2))
    left, top = rng.randint(0, GRID - width), rng.randint(0, GRID - height)
    return _clip(CELL * left, CELL * top, CELL * (left + width), CELL * (top + height))


def training_crop(rng: random.Random, shape: Shape) -> Box:
    """A crop as a region proposal would give it: mostly around the shape, now and then astray."""
    draw = rng.random()
    if draw < 0.62:
        return cell_crop(rng, shape)
    if draw < 0.92:
        return margin_crop(rng, shape)
    return stray_crop(rng)


def kept_tokens(rng: random.Random, crop: Box, shape: Shape, geometry: Geometry) -> np.ndarray:
    """Which tokens of a crop survive a region mask: bool (h, w), a rough blob on the shape.

    Imitates the policy that crops one enclosing box and drops what lies outside the region.
    """
    rows, columns = np.mgrid[0 : geometry.grid[0], 0 : geometry.grid[1]] + 0.5
    x0, y0, x1, y1 = _in_cells(geometry, shape.box, crop)
    center_x = (x0 + x1) / 2 + rng.uniform(-1, 1)
    center_y = (y0 + y1) / 2 + rng.uniform(-1, 1)
    radius_x = (x1 - x0) * rng.uniform(0.6, 1.5) + rng.uniform(1, 3)
    radius_y = (y1 - y0) * rng.uniform(0.6, 1.5) + rng.uniform(1, 3)
    power = rng.choice((2, 8))
    inside = np.abs((columns - center_x) / radius_x) ** power
    inside += np.abs((rows - center_y) / radius_y) ** power
    kept = inside <= 1
    return kept if kept.sum() >= GRID else np.ones(geometry.grid, bool)

"""Labels of an image's visual tokens, whatever its geometry: the objects that each cell shows."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from .families.base import CELL_PIXELS
from .questions import POSITION_BINS
from .scenes import COLORS, DOT_INDEX_OFFSET, KINDS, Box, Scene

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.grid.geometry import Geometry

SAMPLES = CELL_PIXELS
"""Sample points per side of a cell: one per pixel of the model input."""
MIN_COVERAGE = 5
"""Sample points (of 64) of a cell that a shape must cover to count as visible in it."""
MIN_DOT_COVERAGE = 2
"""Sample points (of 64) of a cell that a dot must cover to be labeled as lying in it."""
MIN_DOT_PIXELS = 1.6
"""Diameter at model resolution below which a dot is not labeled: its color is not visible."""

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
"""The slice of each group of labels along the last axis."""
LABEL_COUNT = 49


def patch_labels(
    scene: Scene, index: Image.Image, box: Box, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the labels of the visual tokens that show ``box`` of a scene.

    Args:
        scene: the scene.
        index: its ``render_index`` image.
        box: the part of the scene that is shown, in source pixels.
        geometry: where the cells of the grid ``(h, w)`` lie in the box.

    Returns:
        Two uint8 arrays ``(h * w, LABEL_COUNT)``: the labels, 0 or 1, and which of them are known.
        The dot and the center of a shape are labeled on every cell that the shape covers.
    """
    rows, columns = geometry.grid
    shown = sampled(np.asarray(index.crop(box)), geometry)
    cells = shown.reshape(rows, SAMPLES, columns, SAMPLES)
    labels = np.zeros((rows, columns, LABEL_COUNT), np.uint8)
    known = np.ones_like(labels)
    color_names, kind_names = list(COLORS), list(KINDS)
    for i, shape in enumerate(scene.shapes, start=1):
        is_dot = cells == i + DOT_INDEX_OFFSET
        covered = ((cells == i) | is_dot).sum(axis=(1, 3)) >= MIN_COVERAGE
        if not covered.any():
            continue
        labels[covered, LABELS["color"].start + color_names.index(shape.color)] = 1
        labels[covered, LABELS["kind"].start + kind_names.index(shape.kind)] = 1
        x0, y0, x1, y1 = in_cells(geometry, shape.dot_box, box) * SAMPLES
        if min(x1 - x0, y1 - y0) >= MIN_DOT_PIXELS and is_dot.sum() >= (x1 - x0) * (y1 - y0) / 3:
            dot = color_names.index(shape.dot)
            labels[covered, LABELS["dot"].start + dot] = 1
            here = is_dot.sum(axis=(1, 3)) >= MIN_DOT_COVERAGE
            labels[here, LABELS["dot here"].start + dot] = 1
        else:
            known[covered, LABELS["dot"]] = 0
        x0, y0, x1, y1 = in_cells(geometry, shape.box, box)
        labels[covered, LABELS["column"].start + bin_of((x0 + x1) / 2, columns)] = 1
        labels[covered, LABELS["row"].start + bin_of((y0 + y1) / 2, rows)] = 1
    return labels.reshape(rows * columns, -1), known.reshape(rows * columns, -1)


def bin_of(position: float, cells: int) -> int:
    """The position bin of a place along an axis of so many cells."""
    return min(POSITION_BINS - 1, max(0, int(position / cells * POSITION_BINS)))


def in_cells(geometry: Geometry, box: Box, crop: Box) -> np.ndarray:
    """Convert a box of the scene to cells of a crop of it: float64 ``(x0, y0, x1, y1)``."""
    x0, y0, x1, y1 = box
    left, top, _, _ = crop
    return geometry.to_grid([(x0 - left, y0 - top, x1 - left, y1 - top)])[0]


def sampled(owners: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Sample a crop's pixels at ``SAMPLES`` points per side of every cell; 0 in the padding."""
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

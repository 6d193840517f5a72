"""Where the visual tokens of an image lie in it: cells of a grid, whatever the geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdrpn_glyphs.families.base import CELL_PIXELS
from sdrpn_glyphs.shapes import Box

if TYPE_CHECKING:
    from sdrpn_core.grid.geometry import Geometry

POSITION_BINS = 10
"""Positions are labeled as column and row of a grid with this many cells per side."""
SAMPLES = CELL_PIXELS
"""Sample points per side of a cell: one per pixel of the model input."""


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

"""ViCrop's search for a window: where the map sums up highest, at the size that fits best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdrpn_core.crops.budget import BudgetRule
from sdrpn_core.crops.policy import Crop, CropPlan, CropPolicy, Outcome
from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.geometry import Box, Geometry, enclosing_box
from sdrpn_core.grid.roi_map import RoIMap

#: Sides of the windows that are tried, relative to the smallest (published).
RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


@dataclass(frozen=True)
class WindowPolicy(BudgetRule, CropPolicy):
    """Crop one square window of the image.

    Windows of several sizes are laid on the map, each where its sum is largest. The one is taken
    whose sum exceeds those of its neighbors, one cell away, by most per cell: a window that is too
    large can be moved without losing much, and one that is too small gains in some direction.

    The published search takes the map for the whole image. Here it knows which cells show the
    image, so that padding is left out.

    Adds to the options of ``BudgetRule``:

    Attributes:
        side: of the smallest window, in source pixels (published: the side of the model's input).

    Raises:
        ConfigError: the side is not positive.
    """

    side: int = 336

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side < 1:
            raise ConfigError(f"crop policy: side must be at least 1, not {self.side}")

    def _plan(self, roi: RoIMap, geometry: Geometry) -> CropPlan:
        box = find_window(roi.scores, geometry, self.side)
        return CropPlan(Outcome.OK, (Crop(box, geometry.covering_cells(box)),))


def find_window(scores: npt.NDArray[np.floating], geometry: Geometry, side: int) -> Box:
    """The window in source pixels; the whole image where the smallest window covers it.

    Args:
        scores: ``(h, w)`` map.
        geometry: of the image, on the same grid.
        side: of the smallest window, in source pixels.
    """
    width, height = geometry.source_size
    left, top, right, bottom = enclosing_box(geometry.content())
    shown = scores[top:bottom, left:right].astype(np.float64)
    x0, y0, x1, y1 = geometry.to_grid([(0, 0, width, height)])[0]
    cell = np.array([width / (x1 - x0), height / (y1 - y0)])  # source pixels
    origin = np.array([left - x0, top - y0]) * cell
    best = -np.inf
    window: Box | None = None
    for ratio in RATIOS:
        columns, rows = (
            int(np.clip(int(side * ratio / pixels), 1, n))
            for pixels, n in zip(cell, shown.shape[::-1], strict=True)
        )
        if (rows, columns) == shown.shape:
            break
        (x, y), sharpness = _sharpest(shown, rows, columns)
        if sharpness > best:
            best = sharpness
            # In the published order: at whole pixels, rounding decides.
            center = np.array([x, y]) * cell + cell * np.array([columns, rows]) / 2 + origin
            window = _around(center, int(side * ratio // 2), (width, height))
    return (0, 0, width, height) if window is None else window


def _sharpest(
    shown: npt.NDArray[np.float64], rows: int, columns: int
) -> tuple[tuple[int, int], float]:
    """Column and row of the largest sum, and by how much it exceeds its neighbors, per cell."""
    sums = np.lib.stride_tricks.sliding_window_view(shown, (rows, columns)).sum(axis=(2, 3))
    # The first one column by column, as published.
    x, y = np.unravel_index(int(sums.T.argmax()), sums.T.shape)
    neighbors = [
        sums[row, column]
        for row, column in ((y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x))
        if 0 <= row < sums.shape[0] and 0 <= column < sums.shape[1]
    ]
    sharpness = (sums[y, x] - np.mean(neighbors)) / (rows * columns)
    return (int(x), int(y)), float(sharpness)


def _around(center: npt.NDArray[np.float64], half: int, size: tuple[int, int]) -> Box:
    """The square around a center, moved into the image, and cut where the image is smaller."""
    sides = []
    for middle, length in zip(center.tolist(), size, strict=True):
        middle = min(max(int(middle), half), length - half)
        sides.append((max(0, middle - half), min(length, middle + half)))
    (x0, x1), (y0, y1) = sides
    return x0, y0, x1, y1

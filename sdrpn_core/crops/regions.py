"""From an RoI map to connected regions of the grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.geometry import Box
from sdrpn_core.grid.roi_map import RoIMap, gaussian_blur
from sdrpn_core.util.dataclass_reader import check_fields

_EIGHT_CONNECTED = np.ones((3, 3), dtype=np.int64)
_GROWN_SIDE = 3
"""Least side in cells of a region grown for its small area, the published value."""
_CORNER_SHARE = 4
"""One part in this many of the first row and of the first column is the corner, as published."""


@dataclass(frozen=True)
class RegionRule:
    """Which cells are above the threshold, and which of their connected regions count.

    The defaults are those of the published evaluation on a 24x24 grid.

    Attributes:
        threshold: cells strictly above it count. Absolute: a probability. Relative: a fraction of
            the largest value of the blurred map.
        relative: threshold the raw scores relative to their maximum (the published code writes this
            as a negative threshold). Meant for ``distribution`` maps: a logit map without a
            positive score has no cell above it.
        min_area: a region with fewer cells is grown around its center.
        max_area_fraction: a region with more than this share of the grid's cells is dropped. The
            default is 225 of 576 cells; 1 keeps all.
        blur: blur the map before the threshold, as published. On a coarse grid, where an object
            covers a cell or two, the blur is as wide as the object: turn it off.
        keep_single: keep regions of one cell, which the published code drops.
        corner_sink_above: on grids with more cells than this, the first quarter of the top row and
            of the left column is set to zero before the blur, because attention sinks gather there
            on large grids (published for dynamic resolution: 768); ``None`` never does.

    Raises:
        ConfigError: a value is of another kind or out of range.
    """

    threshold: float = 0.15
    relative: bool = False
    min_area: int = 4
    max_area_fraction: float = 225 / 576
    blur: bool = True
    keep_single: bool = False
    corner_sink_above: int | None = None

    def __post_init__(self) -> None:
        # Those of a policy's other rules, too: what is no number would fail where it is compared.
        check_fields(self, "crop policy")
        if not 0 < self.threshold < 1:
            raise ConfigError(
                f"crop policy: threshold must lie between 0 and 1, not {self.threshold}"
                " (for a fraction of the maximum set relative instead of a negative value)"
            )
        if self.min_area < 1:
            raise ConfigError(f"crop policy: min_area must be at least 1, not {self.min_area}")
        if not 0 < self.max_area_fraction <= 1:
            raise ConfigError(
                f"crop policy: max_area_fraction must lie in (0, 1], not {self.max_area_fraction}"
            )
        if self.corner_sink_above is not None and self.corner_sink_above < 0:
            raise ConfigError(
                "crop policy: corner_sink_above must be None or at least 0, not "
                f"{self.corner_sink_above}"
            )

    def smoothed(self, roi: RoIMap) -> npt.NDArray[np.floating]:
        """The values that the threshold applies to, ``(h, w)`` float32.

        Sinks in the corner are removed before the blur, which may spread their neighbors there.
        """
        values = roi.scores if self.relative else roi.probabilities()
        if self.corner_sink_above is not None and values.size > self.corner_sink_above:
            values = without_corner(values)
        return gaussian_blur(values) if self.blur else values

    def above(self, roi: RoIMap) -> npt.NDArray[np.bool_]:
        """The cells above the threshold: (h, w) bool."""
        values = self.smoothed(roi)
        return values > (values.max() * self.threshold if self.relative else self.threshold)

    def regions(self, above: npt.NDArray[np.bool_]) -> Regions:
        """The 8-connected regions of ``above`` that count, in raster order of their first cell."""
        labels, _ = ndimage.label(above, structure=_EIGHT_CONNECTED)
        areas = np.bincount(labels.ravel())[1:]
        largest = self.max_area_fraction * above.size
        boxes: list[Box] = []
        single = oversized = 0
        for area, (rows, columns) in zip(areas, ndimage.find_objects(labels), strict=True):
            box = (columns.start, rows.start, columns.stop, rows.stop)
            if area == 1 and not self.keep_single:
                single += 1
            elif area > largest:
                oversized += 1
            else:
                boxes.append(_grow(box, above.shape) if area < self.min_area else box)
        return Regions(tuple(boxes), single, oversized)


@dataclass(frozen=True)
class Regions:
    """Boxes of the regions that count, and how many were dropped.

    Attributes:
        boxes: half-open boxes in cells.
        single: regions dropped because they are one cell.
        oversized: regions dropped for their large area.
    """

    boxes: tuple[Box, ...]
    single: int
    oversized: int


def without_corner(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Suppress the two strips at the top left corner of a map, in a copy.

    Args:
        values: ``(h, w)``; positive values in the strips become zero, negative ones (of scores
            that are not probabilities) are kept.
    """
    rows, columns = values.shape
    values = values.copy()
    for strip in (values[: rows // _CORNER_SHARE, 0], values[0, : columns // _CORNER_SHARE]):
        np.minimum(strip, 0, out=strip)
    return values


def _grow(box: Box, grid: tuple[int, ...]) -> Box:
    """``box`` grown around its center to at least three cells a side, clipped to the grid."""
    x0, y0, x1, y1 = box
    (left, right), (top, bottom) = _grow_side(x0, x1, grid[1]), _grow_side(y0, y1, grid[0])
    return left, top, right, bottom


def _grow_side(low: int, high: int, cells: int) -> tuple[int, int]:
    # One more than the true side: the published size of a grown region.
    side = max(_GROWN_SIDE, high - low + 1)
    center = (low + high) / 2
    return max(0, int(center - side / 2)), min(cells, int(center + side / 2))

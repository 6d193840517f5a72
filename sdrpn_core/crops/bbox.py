"""One crop per connected region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdrpn_core.crops.budget import BudgetRule
from sdrpn_core.crops.policy import Crop, CropPlan, CropPolicy, Outcome
from sdrpn_core.crops.pruning import PruneRule
from sdrpn_core.crops.regions import RegionRule, Regions
from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.geometry import Box, Geometry
from sdrpn_core.grid.roi_map import RoIMap


@dataclass(frozen=True)
class BboxPolicy(RegionRule, PruneRule, BudgetRule, CropPolicy):
    """Crop the bounding box of every connected region above the threshold.

    Adds to the options of ``RegionRule``, ``PruneRule`` and ``BudgetRule``:

    Attributes:
        max_crops: at most this many regions are cropped; the published value is 2.
        keep_strongest: if there are more regions than ``max_crops``, crop those with the highest
            peaks (of the values that the threshold applies to). Off, as published, nothing is
            cropped then.
        max_ratio: tokens per cell that a crop may have, see ``Crop``; ``None`` (published: -1)
            keeps all.
        margin: margin around a region that its crop shows on every side, in cells or fractions of
            one (published: 0). On a coarse grid a region may cut through its object.
    """

    max_crops: int = 2
    keep_strongest: bool = False
    max_ratio: float | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        RegionRule.__post_init__(self)
        PruneRule.__post_init__(self)
        BudgetRule.__post_init__(self)
        if self.max_crops < 1:
            raise ConfigError(f"crop policy: max_crops must be at least 1, not {self.max_crops}")
        if self.max_ratio is not None and not self.max_ratio > 0:
            raise ConfigError(
                f"crop policy: max_ratio must be positive or None, not {self.max_ratio}"
            )
        if not self.margin >= 0:
            raise ConfigError(f"crop policy: margin must not be negative, not {self.margin}")

    def _plan(self, roi: RoIMap, geometry: Geometry) -> CropPlan:
        return plan_boxes(
            self.regions(self.above(roi)),
            geometry,
            max_crops=self.max_crops,
            ranking=self.smoothed(roi) if self.keep_strongest else None,
            max_ratio=self.max_ratio,
            margin=self.margin,
        )


def plan_boxes(
    regions: Regions,
    geometry: Geometry,
    *,
    max_crops: int,
    ranking: npt.NDArray[np.floating] | None = None,
    max_ratio: float | None = None,
    margin: float = 0.0,
) -> CropPlan:
    """One crop per region, or the reason for none.

    With a ``ranking``, ``(h, w)``, too many regions are no reason: those with the highest peaks in
    it are cropped, in the order of ``regions``.
    """
    shown = source_boxes(regions.boxes, geometry, margin)
    crops = tuple(
        Crop(box=box, grid_box=grid_box, max_ratio=max_ratio)
        for grid_box, box in zip(regions.boxes, shown, strict=True)
        if not is_empty(box)
    )
    if ranking is not None and len(crops) > max_crops:
        crops = _strongest(crops, ranking, max_crops)
    if len(crops) > max_crops:
        return CropPlan(
            Outcome.TOO_MANY, reason=f"{len(crops)} regions, at most {max_crops} are cropped"
        )
    if crops:
        return CropPlan(Outcome.OK, crops)
    return CropPlan(*_why_none(regions))


def _strongest(
    crops: tuple[Crop, ...], ranking: npt.NDArray[np.floating], count: int
) -> tuple[Crop, ...]:
    peaks = []
    for crop in crops:
        x0, y0, x1, y1 = crop.grid_box
        peaks.append(ranking[y0:y1, x0:x1].max())
    # Stable, so that of equal peaks the earlier region stays.
    chosen = np.argsort(-np.asarray(peaks), kind="stable")[:count]
    return tuple(crops[index] for index in sorted(chosen.tolist()))


def _why_none(regions: Regions) -> tuple[Outcome, tuple[Crop, ...], str]:
    # An over-large region outranks what is too small beside it: the map says "everywhere".
    if regions.oversized:
        return Outcome.NO_ROI, (), "the region covers too much of the image"
    if regions.boxes:
        return Outcome.TOO_SMALL, (), "the region holds no whole pixel of the image"
    if regions.single:
        return Outcome.TOO_SMALL, (), "only isolated cells are above the threshold"
    return Outcome.NO_ROI, (), "no cell is above the threshold"


def source_boxes(
    grid_boxes: tuple[Box, ...], geometry: Geometry, margin: float = 0.0, min_side: int = 0
) -> list[Box]:
    """Grid boxes with a margin (in cells) in source pixels, as plain integers.

    None is narrower than ``min_side`` source pixels, as far as the image reaches.
    """
    grown = [(x0 - margin, y0 - margin, x1 + margin, y1 + margin) for x0, y0, x1, y1 in grid_boxes]
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in geometry.to_source(grown, min_side).tolist()]


def is_empty(box: Box) -> bool:
    """Whether a box has zero area."""
    x0, y0, x1, y1 = box
    return x1 <= x0 or y1 <= y0

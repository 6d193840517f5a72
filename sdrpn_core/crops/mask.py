"""One crop around everything above the threshold, without the tokens outside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdrpn_core.crops.bbox import is_empty, plan_boxes, source_boxes
from sdrpn_core.crops.budget import BudgetRule
from sdrpn_core.crops.policy import Crop, CropPlan, CropPolicy, Outcome
from sdrpn_core.crops.pruning import PruneRule
from sdrpn_core.crops.regions import RegionRule
from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.geometry import Geometry, enclosing_box
from sdrpn_core.grid.roi_map import RoIMap


@dataclass(frozen=True)
class MaskPolicy(RegionRule, PruneRule, BudgetRule, CropPolicy):
    """Crop the box around all cells above the threshold; drop the crop's tokens outside them.

    Adds to the options of ``RegionRule``, ``PruneRule`` and ``BudgetRule``. The options on regions
    only decide how many there are: the mask holds every cell above the threshold, including
    isolated cells and regions that are too large.

    Attributes:
        min_regions: if there are fewer regions than this, the box of each is cropped instead. The
            published rules are 2 for padded squares, and 1 for resized images: always mask, without
            counting regions.
        whole_grid: a mask that is not empty covers every cell of the grid, so that the whole image
            is cropped. The published code does this wherever its threshold is relative.
        keep_all: keep the crop's tokens outside the mask as well.
        min_side: narrower crops are widened to this, in source pixels.
    """

    min_regions: int = 2
    whole_grid: bool = False
    keep_all: bool = False
    min_side: int = 0

    def __post_init__(self) -> None:
        RegionRule.__post_init__(self)
        PruneRule.__post_init__(self)
        BudgetRule.__post_init__(self)
        if self.min_regions < 1:
            raise ConfigError(
                f"crop policy: min_regions must be at least 1, not {self.min_regions}"
            )
        if self.min_side < 0:
            raise ConfigError(f"crop policy: min_side must not be negative, not {self.min_side}")

    def _plan(self, roi: RoIMap, geometry: Geometry) -> CropPlan:
        above = self.above(roi)
        regions = self.regions(above)
        if len(regions.boxes) < self.min_regions and self.min_regions > 1:
            return plan_boxes(regions, geometry, max_crops=self.min_regions)
        if not above.any():
            return CropPlan(Outcome.NO_ROI, reason="no cell is above the threshold")
        mask = np.ones_like(above) if self.whole_grid else above
        grid_box = enclosing_box(mask)
        (box,) = source_boxes((grid_box,), geometry, min_side=self.min_side)
        if is_empty(box):
            return CropPlan(
                Outcome.TOO_SMALL, reason="the region holds no whole pixel of the image"
            )
        x0, y0, x1, y1 = grid_box
        keep = None if self.keep_all else mask[y0:y1, x0:x1].astype(np.float32)
        return CropPlan(Outcome.OK, (Crop(box, grid_box, keep=keep),))

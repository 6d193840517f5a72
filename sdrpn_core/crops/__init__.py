"""Crop policies: from an RoI map and a geometry to the regions to look at again.

`sdrpn_core.crops.tokens` says what a crop contributes in tokens; it needs torch, the rest does not.
"""

from __future__ import annotations

from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.crops.policy import Crop, CropPlan, CropPolicy, Outcome

__all__ = ["BboxPolicy", "Crop", "CropPlan", "CropPolicy", "MaskPolicy", "Outcome"]

"""How many tokens a crop contributes, and which."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from sdrpn_core.crops.policy import Crop

_KEPT = 0.5
"""A crop token is kept where more than this share of it is inside the mask (published)."""


def keep_tokens(keep: npt.NDArray[np.float32], crop_grid: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The tokens of a crop that lie inside its mask.

    Exact ties at one half are common, so torch interpolates the mask in float32, as published.

    Args:
        keep: (rows, columns) float32 of 0 and 1, ``Crop.keep``.
        crop_grid: (rows, columns) of the crop's visual tokens.

    Returns:
        Bool of shape ``crop_grid``; all false if the grid is coarser and misses every cell.
    """
    mask = torch.from_numpy(np.ascontiguousarray(keep, dtype=np.float32))[None, None]
    resized = functional.interpolate(mask, size=crop_grid, mode="bilinear", align_corners=False)
    return (resized[0, 0] > _KEPT).numpy()


def token_grid(crop: Crop, grid: tuple[int, int]) -> tuple[int, int]:
    """The token grid that a crop's features are resized to.

    Args:
        crop: the crop; if it has no ``max_ratio``, ``grid`` is returned.
        grid: ``(rows, columns)`` of the crop's visual tokens from the backbone; the upper limit.

    Returns:
        ``(rows, columns)``: cells of the crop's grid box times ``max_ratio``, scaled down together
        to fit ``grid``, rounded half to even, at least 1.
    """
    if crop.max_ratio is None:
        return grid
    x0, y0, x1, y1 = crop.grid_box
    rows, columns = (y1 - y0) * crop.max_ratio, (x1 - x0) * crop.max_ratio
    fit = min(1.0, grid[0] / rows, grid[1] / columns)
    return max(1, round(rows * fit)), max(1, round(columns * fit))

"""How well an attention map finds a region that is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Maps = npt.NDArray[np.floating]
Scores = npt.NDArray[np.float64]
Cells = npt.NDArray[np.bool_]


def pointing(maps: Maps, inside: Cells) -> Scores:
    """Whether the highest cell lies in the region.

    Args:
        maps: ``(..., cells)``.
        inside: ``(cells,)`` or ``(..., cells)``, true in the region.

    Returns:
        ``(...,)`` 1 or 0; where several cells are highest, the share of them in the region, so that
        a constant map scores by chance.
    """
    highest = maps == maps.max(axis=-1, keepdims=True)
    hits: Scores = (highest & inside).sum(axis=-1) / highest.sum(axis=-1)
    return hits


def box_auc(maps: Maps, inside: Cells) -> Scores:
    """The probability that a cell in the region is higher than one outside, ties counting half.

    This is the area under the ROC curve, by ranks (Mann and Whitney).

    Args:
        maps: ``(..., cells)``.
        inside: ``(cells,)`` or ``(..., cells)``, true in the region; there must be cells of both
            kinds.

    Returns:
        ``(...,)`` from 0 to 1; 0.5 for a constant map.
    """
    n_inside = inside.sum(axis=-1)
    rank_sum: Scores = np.where(inside, rankdata(maps, axis=-1), 0.0).sum(axis=-1)
    return (rank_sum - n_inside * (n_inside + 1) / 2) / (n_inside * (inside.shape[-1] - n_inside))

"""How well an attention map finds a region that is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
    order = maps.argsort(axis=-1)
    ranks = _tied_ranks(np.take_along_axis(maps, order, axis=-1))
    is_inside = np.take_along_axis(np.broadcast_to(inside, maps.shape), order, axis=-1)
    n_inside = inside.sum(axis=-1)
    rank_sum: Scores = np.where(is_inside, ranks, 0.0).sum(axis=-1)
    return (rank_sum - n_inside * (n_inside + 1) / 2) / (n_inside * (inside.shape[-1] - n_inside))


def _tied_ranks(ascending: Maps) -> Scores:
    """Ranks from 1 of sorted values ``(..., cells)``; equal ones share their mean rank."""
    n = ascending.shape[-1]
    places = np.broadcast_to(np.arange(n), ascending.shape)
    steps = ascending[..., 1:] != ascending[..., :-1]
    edge = np.ones((*ascending.shape[:-1], 1), dtype=np.bool_)
    is_first = np.concatenate([edge, steps], axis=-1)
    is_last = np.concatenate([steps, edge], axis=-1)
    first = np.maximum.accumulate(np.where(is_first, places, 0), axis=-1)
    last = np.flip(
        np.minimum.accumulate(np.flip(np.where(is_last, places, n - 1), axis=-1), axis=-1), axis=-1
    )
    ranks: Scores = (first + last) / 2 + 1
    return ranks

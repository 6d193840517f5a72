"""Percentile intervals by resampling items, for what has no interval in closed form.

Reference:
    B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Statistic = Callable[..., NDArray[Any]]
"""Takes columns ``(..., items)`` and ``axis``; gives ``(...)``, or ``(totals, ...)``."""

N_RESAMPLES = 9999
SEED = 0
"""The resamples are the same in every run, so that a report can be reproduced."""
_MAX_VALUES = 10_000_000
"""Values of one column that are held at once."""


def bootstrap(
    columns: Sequence[Sequence[float] | NDArray[Any]], statistic: Statistic
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The limits of the 95% interval of a statistic.

    Args:
        columns: numbers per item; an item is drawn with all of its numbers, so that what is
            computed from several columns is paired. At least two items.
        statistic: see :data:`Statistic`.

    Returns:
        Low and high limits, shaped as the statistic.
    """
    from scipy import stats  # takes seconds to import

    arrays = [np.asarray(column, dtype=float) for column in columns]
    n_items = len(arrays[0])
    found = stats.bootstrap(
        arrays,
        statistic,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=N_RESAMPLES,
        batch=max(1, min(N_RESAMPLES, _MAX_VALUES // n_items)),
        rng=np.random.default_rng(SEED),
    )
    low, high = found.confidence_interval
    return np.asarray(low), np.asarray(high)

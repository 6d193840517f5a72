"""Intervals of mean scores and of their paired differences.

Where every score is 0 or 1 they have a closed form: no resampling, no seed. Where one lies between,
items are resampled, see :mod:`sdrpn_bench.bootstrap`.

References:
    R. G. Newcombe, Improved confidence intervals for the difference between binomial proportions
    based on paired data, Statistics in Medicine 17 (1998) 2635-2650, method 10.
    Q. McNemar, Note on the sampling error of the difference between correlated proportions or
    percentages, Psychometrika 12 (1947) 153-157, in its exact binomial form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr  # scipy.stats takes seconds to import

from sdrpn_bench.bootstrap import bootstrap
from sdrpn_core.util.wilson import wilson

Interval = tuple[float, float]

#: One item says nothing about others.
_LEAST_RESAMPLED = 2


@dataclass(frozen=True)
class PairedDifference:
    """How two methods differ on the same items.

    Attributes:
        value: mean score of the method minus that of the reference.
        interval: its 95% interval.
        wins: items on which the method scores higher.
        losses: items on which the reference scores higher.
        p_value: exact two-sided McNemar test of no difference; ``None`` where a score lies between
            0 and 1.
    """

    value: float
    interval: Interval
    wins: int
    losses: int
    p_value: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "interval": list(self.interval)}


def is_graded(scores: Sequence[float]) -> bool:
    """Whether any score lies between 0 and 1."""
    return any(0 < score < 1 for score in scores)


def mean_interval(scores: Sequence[float]) -> Interval:
    """The 95% interval of a mean score: Wilson's, or for graded scores a bootstrap.

    Args:
        scores: per item, from 0 to 1.

    Raises:
        ValueError: no items.
    """
    if not is_graded(scores):
        return wilson(scores.count(1), len(scores))
    if len(scores) == 1:  # nothing to resample: it might be anything
        return 0.0, 1.0
    low, high = bootstrap([scores], np.mean)
    return float(low), float(high)


def paired_difference(method: Sequence[float], reference: Sequence[float]) -> PairedDifference:
    """Compare two methods item by item.

    Args:
        method: per item, the method's score, from 0 to 1.
        reference: the same items, for the reference.

    Raises:
        ValueError: no items, or different numbers of them.
    """
    pairs = list(zip(method, reference, strict=True))
    if is_graded(method) or is_graded(reference):
        return _graded_difference([a - b for a, b in pairs])
    both, wins = pairs.count((1, 1)), pairs.count((1, 0))
    losses, neither = pairs.count((0, 1)), pairs.count((0, 0))
    n = len(pairs)
    value = (wins - losses) / n if n else 0.0
    low_1, high_1 = _distances(both + wins, n)
    low_2, high_2 = _distances(both + losses, n)
    phi = _correlation(both, wins, losses, neither)
    low = value - _hypotenuse(low_1, high_2, phi)
    high = value + _hypotenuse(high_1, low_2, phi)
    p_value = min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))
    return PairedDifference(value, (max(-1.0, low), min(1.0, high)), wins, losses, p_value)


def paired_intervals(
    methods: Sequence[Sequence[float]], reference: Sequence[float]
) -> list[Interval]:
    """The intervals of :func:`paired_difference` for several methods and one reference.

    Items are drawn once for all of them, which takes little longer than for one.

    Args:
        methods: per method the scores of all items, from 0 to 1.
        reference: of the same items.

    Raises:
        ValueError: no items, or different numbers of them.
    """
    together: list[int] = []
    if len(reference) >= _LEAST_RESAMPLED:
        graded = is_graded(reference)
        together = [index for index, one in enumerate(methods) if graded or is_graded(one)]
    found = dict(zip(together, _resampled([methods[i] for i in together], reference), strict=True))
    return [
        found[index] if index in found else paired_difference(one, reference).interval
        for index, one in enumerate(methods)
    ]


def _resampled(methods: Sequence[Sequence[float]], reference: Sequence[float]) -> list[Interval]:
    if not methods:
        return []
    differences = np.array([np.subtract(one, reference) for one in methods]).T
    n = len(reference)

    def means(items: NDArray[Any], axis: int) -> NDArray[Any]:
        """``(methods, ...)`` from numbers of items ``(..., items)``."""
        drawn = items.astype(np.intp).reshape(-1, n)
        offsets = n * np.arange(len(drawn))[:, None]
        counts = np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(-1, n)
        found: NDArray[Any] = (counts @ differences / n).T
        return found.reshape(-1, *items.shape[:-1])

    low, high = bootstrap([np.arange(n)], means)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _graded_difference(differences: list[float]) -> PairedDifference:
    interval = -1.0, 1.0
    if len(differences) >= _LEAST_RESAMPLED:
        low, high = bootstrap([differences], np.mean)
        interval = float(low), float(high)
    wins, losses = (sum(sign * d > 0 for d in differences) for sign in (1, -1))
    return PairedDifference(fmean(differences), interval, wins, losses, None)


def _distances(correct: int, n: int) -> tuple[float, float]:
    """Distances of the Wilson limits below and above the proportion."""
    low, high = wilson(correct, n)
    return correct / n - low, high - correct / n


def _correlation(both: int, wins: int, losses: int, neither: int) -> float:
    """Newcombe's phi: positive correlation is shrunk by a continuity correction of n / 2."""
    product = (both + wins) * (losses + neither) * (both + losses) * (wins + neither)
    if product == 0:
        return 0.0
    n = both + wins + losses + neither
    numerator: float = both * neither - wins * losses
    if numerator > 0:
        numerator = max(numerator - n / 2, 0.0)
    return numerator / sqrt(product)


def _hypotenuse(a: float, b: float, phi: float) -> float:
    # Rounding may leave a tiny negative number where both terms cancel.
    return sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

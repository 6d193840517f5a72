"""Intervals of paired differences, in closed form: no resampling, no seed.

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
from typing import Any

from scipy.special import bdtr  # scipy.stats takes seconds to import

from sdrpn_core.util.wilson import wilson


@dataclass(frozen=True)
class PairedDifference:
    """How two methods differ on the same items.

    Attributes:
        value: accuracy of the method minus that of the reference.
        interval: its 95% interval.
        wins: items that only the method answers correctly.
        losses: items that only the reference answers correctly.
        p_value: exact two-sided McNemar test of no difference.
    """

    value: float
    interval: tuple[float, float]
    wins: int
    losses: int
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "interval": list(self.interval)}


def paired_difference(method: Sequence[bool], reference: Sequence[bool]) -> PairedDifference:
    """Compare two methods item by item.

    Args:
        method: per item, whether the method is correct.
        reference: the same items, for the reference.

    Raises:
        ValueError: no items, or different numbers of them.
    """
    pairs = [(bool(a), bool(b)) for a, b in zip(method, reference, strict=True)]
    both, wins = pairs.count((True, True)), pairs.count((True, False))
    losses, neither = pairs.count((False, True)), pairs.count((False, False))
    n = len(pairs)
    value = (wins - losses) / n if n else 0.0
    low_1, high_1 = _distances(both + wins, n)
    low_2, high_2 = _distances(both + losses, n)
    phi = _correlation(both, wins, losses, neither)
    low = value - _hypotenuse(low_1, high_2, phi)
    high = value + _hypotenuse(high_1, low_2, phi)
    p_value = min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))
    return PairedDifference(value, (max(-1.0, low), min(1.0, high)), wins, losses, p_value)


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

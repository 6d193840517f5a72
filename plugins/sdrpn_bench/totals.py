"""A metric's totals besides the mean score, such as F1, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdrpn_bench.bootstrap import Statistic, bootstrap

if TYPE_CHECKING:
    from sdrpn_bench.metrics.metric import Metric

Counts = Mapping[str, float]
"""What one item adds to each sum; see ``Metric.counts``."""


def metric_totals(
    metric: Metric, counts: Sequence[Counts], reference: Sequence[Counts] | None = None
) -> dict[str, dict[str, Any]]:
    """Compute the totals of a method, and how they differ from those of a reference.

    Args:
        metric: what the counts are of.
        counts: per item; at least one.
        reference: the same items, for the reference.

    Returns:
        Per total: ``value`` and ``interval``, and with a reference ``difference``, which has both
        of these too. Empty if the metric counts nothing.
    """
    names = list(counts[0])
    if not names:
        return {}
    own = _columns(counts, names)
    labels = list(metric.aggregate({name: c.sum() for name, c in zip(names, own, strict=True)}))

    def totals(*columns: NDArray[Any], axis: int = -1) -> NDArray[Any]:
        sums = {name: column.sum(axis) for name, column in zip(names, columns, strict=True)}
        return np.stack([metric.aggregate(sums)[label] for label in labels])

    def differences(*columns: NDArray[Any], axis: int = -1) -> NDArray[Any]:
        mine, theirs = columns[: len(names)], columns[len(names) :]
        return totals(*mine, axis=axis) - totals(*theirs, axis=axis)

    result = _with_intervals(labels, own, totals, (0.0, 1.0))
    if reference is not None:
        both = [*own, *_columns(reference, names)]
        found = _with_intervals(labels, both, differences, (-1.0, 1.0))
        for label in labels:
            result[label]["difference"] = found[label]
    return result


def _columns(counts: Sequence[Counts], names: Sequence[str]) -> list[NDArray[Any]]:
    return [np.array([item[name] for item in counts], dtype=float) for name in names]


def _with_intervals(
    labels: Sequence[str],
    columns: Sequence[NDArray[Any]],
    statistic: Statistic,
    widest: tuple[float, float],
) -> dict[str, dict[str, Any]]:
    """Values and intervals of several statistics; one item cannot be resampled."""
    values = statistic(*columns).tolist()
    lows, highs = [widest[0]] * len(labels), [widest[1]] * len(labels)
    if len(columns[0]) > 1:
        lows, highs = (limits.tolist() for limits in bootstrap(columns, statistic))
    return {
        label: {"value": value, "interval": [low, high]}
        for label, value, low, high in zip(labels, values, lows, highs, strict=True)
    }

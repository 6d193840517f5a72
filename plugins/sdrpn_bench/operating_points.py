"""What a gate's threshold trades: accuracy against the questions that need no second pass.

Every question was answered twice, plainly and with its crop, and the gate gave a probability. What
the answers would have been behind any threshold follows from that, without another run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdrpn_bench.intervals import PairedDifference, paired_difference, paired_intervals

#: Accuracies are means of the same numbers, summed in different orders.
_ROUNDING = 1e-9

#: Thresholds whose intervals are computed together: one by one they take tens of milliseconds each.
_AT_ONCE = 256


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it does to the questions at hand.

    Attributes:
        threshold: the region is looked for where the probability is at least this.
        n_skipped: questions for which it is not.
        accuracy: mean score behind the gate.
    """

    threshold: float
    n_skipped: int
    accuracy: float


class GatedQuestions:
    """Questions that were answered plainly and with a crop.

    Args:
        needs: per question the gate's probability.
        plain: score of the plain answer, from 0 to 1.
        looked: score of what a closer look makes of the answer.
        cropped: score of always answering with the crop, if a closer look may end otherwise, as in
            a cascade; default: ``looked``.

    Raises:
        ValueError: no questions, or different numbers of them.
    """

    def __init__(
        self,
        needs: Sequence[float],
        plain: Sequence[float],
        looked: Sequence[float],
        cropped: Sequence[float] | None = None,
    ) -> None:
        columns = (needs, plain, looked, looked if cropped is None else cropped)
        if not needs or len({len(column) for column in columns}) > 1:
            raise ValueError("every question needs a probability and its scores")
        self._needs, self._plain, self._looked, self._cropped = (
            np.asarray(column, dtype=np.float64) for column in columns
        )

    def __len__(self) -> int:
        return len(self._needs)

    def points(self) -> list[OperatingPoint]:
        """All thresholds that differ in their decisions, from "always look" up.

        Each lies about half-way between two probabilities, so that the last bits of a probability,
        which change with the batch, do not matter. It has as few digits as that takes: a threshold
        is read, and typed in again.
        """
        order = np.argsort(self._needs, kind="stable")
        needs, plain, looked = (
            column[order] for column in (self._needs, self._plain, self._looked)
        )
        n = len(needs)
        gains = np.concatenate([[0.0], np.cumsum(plain - looked)])
        accuracies = (looked.sum() + gains) / n
        points = [OperatingPoint(0.0, 0, float(accuracies[0]))]
        above = [*needs[1:].tolist(), 1.0]
        for n_skipped, (low, high) in enumerate(zip(needs.tolist(), above, strict=True), start=1):
            if low < high:
                accuracy = float(accuracies[n_skipped])
                points.append(OperatingPoint(_between(low, high), n_skipped, accuracy))
        return points

    def best(self, max_loss: float, *, certain: bool = False) -> OperatingPoint:
        """The highest threshold that costs no more than a stated accuracy.

        Args:
            max_loss: how far accuracy may lie below that of always cropping, from 0 to 1.
            certain: hold the far end of the loss's 95% interval to it, not only the loss of these
                questions. Of many thresholds the best looks better than it is, so that on other
                questions it mostly loses more than it did on these.
        """
        always, *others = self.points()
        least = self.cropped_accuracy - max_loss - _ROUNDING
        cheap = [point for point in reversed(others) if point.accuracy >= least]
        if not certain:
            return cheap[0] if cheap else always
        for first in range(0, len(cheap), _AT_ONCE):
            some = cheap[first : first + _AT_ONCE]
            scores = [self._behind(point).tolist() for point in some]
            intervals = paired_intervals(scores, self._cropped.tolist())
            for point, (low, _) in zip(some, intervals, strict=True):
                if low >= -max_loss - _ROUNDING:
                    return point
        return always

    def compared(self, point: OperatingPoint) -> PairedDifference:
        """How the answers behind a threshold differ from always cropping, question by question."""
        return paired_difference(self._behind(point).tolist(), self._cropped.tolist())

    @property
    def cropped_accuracy(self) -> float:
        """Mean score of always answering with the crop."""
        return float(self._cropped.mean())

    @property
    def plain_accuracy(self) -> float:
        """Mean score of the plain answers."""
        return float(self._plain.mean())

    def _behind(self, point: OperatingPoint) -> NDArray[np.float64]:
        return np.where(self._needs < point.threshold, self._plain, self._looked)


def _between(low: float, high: float) -> float:
    """A number above ``low`` and at most ``high``: the shortest decimal in their middle half."""
    middle, reach = (low + high) / 2, (high - low) / 4
    for n_digits in range(1, sys.float_info.dig + 1):
        short = round(middle, n_digits)
        if abs(short - middle) <= reach and low < short <= high:
            return short
    return middle if middle > low else high

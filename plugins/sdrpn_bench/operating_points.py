"""What a gate's threshold trades: accuracy against the questions that need no second pass.

Every question was answered twice, plainly and with its crop, and the gate gave a probability. What
the answers would have been behind any threshold follows from that, without another run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdrpn_bench.intervals import PairedDifference, paired_difference

#: Accuracies are means of the same numbers, summed in different orders.
_ROUNDING = 1e-9


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
        cropped: score of the answer with the crop.

    Raises:
        ValueError: no questions, or different numbers of them.
    """

    def __init__(
        self, needs: Sequence[float], plain: Sequence[float], cropped: Sequence[float]
    ) -> None:
        if not needs or not len(needs) == len(plain) == len(cropped):
            raise ValueError("every question needs a probability and two scores")
        self._needs, self._plain, self._cropped = (
            np.asarray(column, dtype=np.float64) for column in (needs, plain, cropped)
        )

    def __len__(self) -> int:
        return len(self._needs)

    def points(self) -> list[OperatingPoint]:
        """All thresholds that differ in their decisions, from "always crop" up.

        Each lies half-way between two probabilities, so that the last bits of a probability, which
        change with the batch, do not matter.
        """
        order = np.argsort(self._needs, kind="stable")
        needs, plain, cropped = (
            column[order] for column in (self._needs, self._plain, self._cropped)
        )
        n = len(needs)
        gains = np.concatenate([[0.0], np.cumsum(plain - cropped)])
        accuracies = (cropped.sum() + gains) / n
        points = [OperatingPoint(0.0, 0, float(accuracies[0]))]
        above = [*needs[1:].tolist(), 1.0]
        for n_skipped, (low, high) in enumerate(zip(needs.tolist(), above, strict=True), start=1):
            if low < high:
                half_way = (low + high) / 2
                threshold = half_way if half_way > low else high
                points.append(OperatingPoint(threshold, n_skipped, float(accuracies[n_skipped])))
        return points

    def best(self, max_loss: float) -> OperatingPoint:
        """The highest threshold that costs no more than a stated accuracy.

        Args:
            max_loss: how far accuracy may lie below that of always cropping, from 0 to 1.
        """
        points = self.points()
        least = points[0].accuracy - max_loss - _ROUNDING
        return [point for point in points if point.accuracy >= least][-1]

    def compared(self, point: OperatingPoint) -> PairedDifference:
        """How the answers behind a threshold differ from always cropping, question by question."""
        return paired_difference(self._behind(point).tolist(), self._cropped.tolist())

    @property
    def plain_accuracy(self) -> float:
        """Mean score of the plain answers."""
        return float(self._plain.mean())

    def _behind(self, point: OperatingPoint) -> NDArray[np.float64]:
        return np.where(self._needs < point.threshold, self._plain, self._cropped)

"""Relaxed accuracy, for numbers that are read from charts.

References:
    N. Methani et al., PlotQA: Reasoning over Scientific Plots, WACV 2020, arXiv:1909.00997.
    A. Masry et al., ChartQA, Findings of ACL 2022, arXiv:2203.10244, section 5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sdrpn_bench.metrics.metric import Metric
from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

DEFAULT_TOLERANCE = 0.05


def relaxed_match(prediction: str, answer: str, tolerance: float = DEFAULT_TOLERANCE) -> bool:
    """Whether a number is near the right one, and any other text equal to it but for case.

    Args:
        prediction: the model's response.
        answer: the right one. Without a number in it, or with zero, texts are compared.
        tolerance: largest difference of numbers, relative to the right one.
    """
    given, right = _number(prediction), _number(answer)
    if given is not None and right:
        return abs(given - right) / abs(right) <= tolerance
    return prediction.lower() == answer.lower()


def _number(text: str) -> float | None:
    """The number that a text is, a percentage as a fraction; ``None`` if it is none."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class RelaxedAccuracy(Metric):
    """Whether any accepted answer matches; see :func:`relaxed_match`.

    Attributes:
        tolerance: largest difference of numbers, relative to the right one; 0 or more.
    """

    name: ClassVar[str] = "relaxed_accuracy"

    tolerance: float = DEFAULT_TOLERANCE

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ConfigError(f"the tolerance must be 0 or more, not {self.tolerance}")

    def score(self, prediction: str, record: Record) -> float:
        """Score 1 for a match, else 0."""
        return float(
            any(relaxed_match(prediction, answer, self.tolerance) for answer in record.answers)
        )

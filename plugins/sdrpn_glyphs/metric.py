"""The metric of the splits, for the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sdrpn_bench.metrics.metric import Metric
from sdrpn_core.data.record import Record

from .records import is_correct


@dataclass(frozen=True)
class GlyphsAnswer(Metric):
    """Whether a response gives the right answer to its kind of question, whatever else it says."""

    name: ClassVar[str] = "glyphs_answer"

    def score(self, prediction: str, record: Record) -> float:
        """Score 1 for the right answer, else 0."""
        return float(is_correct(prediction, record))

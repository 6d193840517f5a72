"""The metric of the splits, for the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sdrpn_bench.metrics.metric import Metric
from sdrpn_core.data.record import Record

from .records import is_correct


@dataclass(frozen=True)
class GlyphsColor(Metric):
    """Whether a response names the color of the dot, whatever else it says."""

    name: ClassVar[str] = "glyphs_color"

    def score(self, prediction: str, record: Record) -> float:
        """Score 1 for the right color, else 0."""
        return float(is_correct(prediction, record))

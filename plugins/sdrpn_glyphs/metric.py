"""The metric of the splits, for the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sdrpn_bench.metrics.metric import Metric
from sdrpn_core.data.record import Record

from .records import is_correct
from .world.records import is_correct as is_right_of_world


@dataclass(frozen=True)
class GlyphsColor(Metric):
    """Whether a response names the color of the dot, whatever else it says."""

    name: ClassVar[str] = "glyphs_color"

    def score(self, prediction: str, record: Record) -> float:
        """Score 1 for the right color, else 0."""
        return float(is_correct(prediction, record))


@dataclass(frozen=True)
class WorldAnswer(Metric):
    """Whether a response gives the right answer to its kind of question, whatever else it says."""

    name: ClassVar[str] = "world_answer"

    def score(self, prediction: str, record: Record) -> float:
        """Score 1 for the right answer, else 0."""
        return float(is_right_of_world(prediction, record))

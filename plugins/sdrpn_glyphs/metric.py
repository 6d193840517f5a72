"""The metric of the splits, for the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sdrpn_bench.metrics.metric import Metric
from sdrpn_core.data.record import Record
from sdrpn_core.errors import InputError
from sdrpn_glyphs.questions import ANSWERS
from sdrpn_glyphs.records import is_correct, right_answer


@dataclass(frozen=True)
class GlyphsAnswer(Metric):
    """Whether a response gives the right answer to its kind of question, whatever else it says."""

    name: ClassVar[str] = "glyphs_answer"

    def check(self, record: Record) -> None:
        """Refuse a record whose category is no topic, or whose answer is none of the topic's.

        Raises:
            InputError: says what the record lacks.
        """
        super().check(record)
        if right_answer(record) is None:
            raise InputError(
                f"record {record.id!r} has the category {record.category!r} and the answer "
                f"{record.answer!r}: {self.name!r} needs one of the categories "
                f"{', '.join(ANSWERS)}, and one of its answers"
            )

    def score(self, prediction: str, record: Record) -> float:
        """Score 1 for the right answer, else 0."""
        return float(is_correct(prediction, record))

"""Questions to which the answer is yes or no, and the F1 score of "yes".

Reference:
    Y. Li et al., Evaluating Object Hallucination in Large Vision-Language Models (POPE),
    EMNLP 2023, arXiv:2305.10355.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sdrpn_bench.metrics.metric import Metric
from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdrpn_bench.metrics.metric import Counts
    from sdrpn_core.data.record import Record

YES, NO = "yes", "no"
_NEGATIONS = {"No", "no", "not"}


def first_sentence_says(prediction: str) -> str:
    """What the first sentence says, as the authors of POPE read it: no if it negates, else yes."""
    sentence = prediction.partition(".")[0].replace(",", "")
    return NO if _NEGATIONS & set(sentence.split(" ")) else YES


@dataclass(frozen=True)
class YesNo(Metric):
    """Whether the response is the right one of two words; totals: precision, recall and F1 of yes.

    Attributes:
        first_sentence: read the first sentence, so that "Yes, there is." is yes and whatever does
            not negate is yes; else the whole response must be the word.
    """

    name: ClassVar[str] = "yes_no"

    first_sentence: bool = False

    def check(self, record: Record) -> None:
        """Ask for one answer, which is yes or no.

        Raises:
            InputError: it is neither, or there are several.
        """
        super().check(record)
        if len(record.answers) != 1 or _word(record.answers[0]) not in (YES, NO):
            raise InputError(
                f"record {record.id!r}: the answer of a {self.name!r} question is yes or no, not "
                f"{', '.join(map(repr, record.answers))}"
            )

    def score(self, prediction: str, record: Record) -> float:
        """Score 1 for the right word, else 0."""
        return float(self._said(prediction) == _word(record.answers[0]))

    def counts(self, prediction: str, record: Record) -> dict[str, float]:
        """Count true positives, false positives and false negatives; yes is positive."""
        pair = _word(record.answers[0]), self._said(prediction)
        return {
            "true_positives": float(pair == (YES, YES)),
            "false_positives": float(pair == (NO, YES)),
            # As lmms-eval counts: what is neither yes nor no is not missed.
            "false_negatives": float(pair == (YES, NO)),
        }

    def aggregate(self, sums: Counts) -> Counts:
        """Precision, recall and F1; 0 where there is nothing to divide by."""
        found = sums["true_positives"]
        precision = _ratio(found, found + sums["false_positives"])
        recall = _ratio(found, found + sums["false_negatives"])
        f1 = _ratio(2 * precision * recall, precision + recall)
        return {"precision": precision, "recall": recall, "f1": f1}

    def _said(self, prediction: str) -> str:
        return first_sentence_says(prediction) if self.first_sentence else _word(prediction)


def _word(text: str) -> str:
    return text.lower().strip()


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[Any]:
    return np.divide(
        numerator,
        denominator,
        out=np.zeros_like(numerator, dtype=float),
        where=np.asarray(denominator) > 0,
    )

"""Average normalized Levenshtein similarity, for text that is read from documents.

Reference:
    A. F. Biten et al., Scene Text Visual Question Answering, ICCV 2019, arXiv:1905.13648.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sdrpn_bench.metrics.edit_distance import edit_distance
from sdrpn_bench.metrics.metric import Metric
from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

DEFAULT_THRESHOLD = 0.5
"""Answers less similar than this are wrong: they differ by more than misread letters."""


def anls(prediction: str, answers: Sequence[str], threshold: float = DEFAULT_THRESHOLD) -> float:
    """Similarity to the nearest answer: 1 minus edits per character, ignoring case and spacing.

    Args:
        prediction: the model's response.
        answers: those that are accepted; at least one.
        threshold: smallest similarity that counts; a smaller one is 0.
    """
    similarity = 1 - min(_distance(prediction, answer) for answer in answers)
    return similarity if similarity >= threshold else 0.0


def _distance(prediction: str, answer: str) -> float:
    # Edits are counted without outer and repeated spaces, characters with them, as lmms-eval does.
    length = max(len(answer.upper()), len(prediction.upper()))
    edits = edit_distance(_folded(answer), _folded(prediction))
    return edits / length if length else 0.0


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


@dataclass(frozen=True)
class ANLS(Metric):
    """Similarity to the nearest accepted answer; see :func:`anls`.

    Attributes:
        threshold: smallest similarity that counts, from 0 to 1.
    """

    name: ClassVar[str] = "anls"

    threshold: float = DEFAULT_THRESHOLD

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"the threshold of ANLS lies between 0 and 1, not {self.threshold}")

    def score(self, prediction: str, record: Record) -> float:
        """Score by the nearest answer."""
        return anls(prediction, record.answers, self.threshold)

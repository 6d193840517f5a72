"""Containment: whether the right text occurs in the response.

Reference:
    Y. Liu et al., OCRBench: On the Hidden Mystery of OCR in Large Multimodal Models,
    arXiv:2305.07895.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sdrpn_bench.metrics.metric import Metric

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

SOURCE_COLUMN = "dataset"
FORMULAS = "HME100k"
"""Source of the items whose answers are formulas, in LaTeX: case matters there, spaces do not."""

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
"""Full-width ASCII, and the ideographic space, as they are written in Latin text."""


def contains(prediction: str, answers: Sequence[str]) -> bool:
    """Whether any answer occurs in the prediction, ignoring case, line breaks and full width."""
    text = _folded(prediction)
    return any(_folded(answer) in text for answer in answers)


def contains_formula(prediction: str, answers: Sequence[str]) -> bool:
    """Whether any answer occurs in the prediction, ignoring spaces and line breaks."""
    text = _without_spaces(prediction)
    return any(_without_spaces(answer) in text for answer in answers)


def _folded(text: str) -> str:
    return text.translate(_FULL_WIDTH).lower().strip().replace("\n", " ")


def _without_spaces(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


@dataclass(frozen=True)
class Containment(Metric):
    """Whether any accepted answer occurs; items of the source ``HME100k`` hold formulas."""

    name: ClassVar[str] = "containment"

    def score(self, prediction: str, record: Record) -> float:
        """Score 1 if one occurs, else 0."""
        is_formula = record.extra.get(SOURCE_COLUMN) == FORMULAS
        found = contains_formula if is_formula else contains
        return float(found(prediction.strip(), record.answers))

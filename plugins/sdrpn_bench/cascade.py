"""The plain answer where it is sure of itself, else the two-stage answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdrpn_bench.method import MethodContext
from sdrpn_bench.methods import TrainedRPN
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.confidence_threshold import check_confidence_threshold

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.answering.results import Answer
    from sdrpn_core.data.record import Record


@dataclass(frozen=True)
class Cascade(TrainedRPN):
    """The method ``sdrpn`` behind a plain answer, which stays where it is sure.

    Attributes:
        confidence_threshold: probability that every token of the plain answer must reach, above 0,
            at most 1.

    Raises:
        ConfigError: the threshold is no such probability, or a budget is below 1.
    """

    confidence_threshold: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_confidence_threshold(self.confidence_threshold)

    def answer(
        self,
        context: MethodContext,
        records: Sequence[Record],
        images: Sequence[tuple[Image.Image, ...]],
    ) -> list[Answer]:
        """Answer plainly, and again where that is not sure enough."""
        return answer_batch(
            context.backbone,
            self.questions(records, images),
            self.proposer(context, records),
            confidence_threshold=self.confidence_threshold,
            max_new_tokens=context.max_new_tokens,
        )

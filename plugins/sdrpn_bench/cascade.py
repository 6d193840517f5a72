"""The plain answer where it is sure of itself, else the two-stage answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdrpn_bench.methods import TrainedRPN
from sdrpn_core.answering.confidence_threshold import check_confidence_threshold


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

    def answering(self) -> dict[str, Any]:
        """How sure a plain answer must be to stay."""
        return {"confidence_threshold": self.confidence_threshold}

"""The same questions answered twice: by two models, in two runs, or by two methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sdrpn_bench.intervals import PairedDifference, paired_difference
from sdrpn_bench.item_store import Row

__all__ = ["PairedResults", "pair_results"]


@dataclass(frozen=True)
class PairedResults:
    """How answers to the same questions differ.

    Attributes:
        n: questions.
        reference: mean score of what is compared with.
        accuracy: mean score of what is compared.
        difference: of the second from the first, question by question.
        token_layers_ratio: token-layers of the second relative to those of the first; ``None``
            where they are not known.
    """

    n: int
    reference: float
    accuracy: float
    difference: PairedDifference
    token_layers_ratio: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "difference": self.difference.to_dict()}


def pair_results(results: Sequence[Row], reference: Sequence[Row]) -> PairedResults:
    """Compare what a method gave for questions with what another gave for the same ones.

    Args:
        results: per question, as :mod:`sdrpn_bench.measure` makes them; at least one.
        reference: the same questions, for what is compared with.

    Raises:
        ValueError: no questions, or different numbers of them.
    """
    scores = [float(result["score"]) for result in results]
    others = [float(result["score"]) for result in reference]
    difference = paired_difference(scores, others)
    cost, base = _token_layers(results), _token_layers(reference)
    ratio = cost / base if cost is not None and base else None
    return PairedResults(len(scores), fmean(others), fmean(scores), difference, ratio)


def _token_layers(results: Sequence[Row]) -> float | None:
    """Forward and backward, of all questions."""
    costs = [result.get("cost", {}) for result in results]
    counts = [
        cost.get(name) for cost in costs for name in ("token_layers", "backward_token_layers")
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None

"""What a utility run found, in a few numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from sdrpn_core.labels.judged import DEFAULT_MARGIN
from sdrpn_core.utility.row import UtilityRow

__all__ = ["SourceSummary", "summarize"]


@dataclass(frozen=True)
class SourceSummary:
    """What the candidates of one source are worth; of several per record the best counts.

    Attributes:
        records: how many have a candidate from it.
        helped: share of these whose best candidate is worth more than the margin of a gate's
            labels (:data:`~sdrpn_core.labels.judged.DEFAULT_MARGIN`).
        median: of the best candidates' utilities, in nats.
    """

    records: int
    helped: float
    median: float


def summarize(rows: Iterable[UtilityRow]) -> dict[str, SourceSummary]:
    """Summarize the rows of a run by source, in the order in which they first occur.

    Args:
        rows: judged records.
    """
    best: dict[str, list[float]] = {}
    for row in rows:
        own: dict[str, float] = {}
        for candidate, utility in zip(row.candidates, row.utilities, strict=True):
            own[candidate.source] = max(utility, own.get(candidate.source, utility))
        for source, utility in own.items():
            best.setdefault(source, []).append(utility)
    return {
        source: SourceSummary(
            len(values),
            sum(value > DEFAULT_MARGIN for value in values) / len(values),
            statistics.median(values),
        )
        for source, values in best.items()
    }

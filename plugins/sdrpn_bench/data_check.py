"""What a run must know of all its records before a model is loaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdrpn_core.errors import InputError
from sdrpn_core.util.isolate_failures import ITEM_ERRORS

if TYPE_CHECKING:
    from sdrpn_bench.metrics.metric import Metric
    from sdrpn_core.data.record import Record, RecordSource

__all__ = ["DataFacts", "check_data"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataFacts:
    """What the records of a run have.

    Attributes:
        n: how many they are.
        n_with_boxes: of how many the regions are known; some may have none.
    """

    n: int
    n_with_boxes: int


def check_data(records: RecordSource, metric: Metric) -> DataFacts:
    """Go through the texts of all records.

    Records that cannot be scored are named once in the log, and left out later.

    Raises:
        InputError: None of them can be scored; says what the first one lacks.
    """
    n_with_boxes = n_bad = 0
    first = ""
    for record in records.outlines():
        n_with_boxes += record.boxes is not None
        problem = _problem(record, metric)
        if problem is not None:
            n_bad += 1
            first = first or problem
    if n_bad == len(records):
        raise InputError(f"{records.name}: none of {n_bad} records can be scored: {first}")
    if n_bad:
        logger.warning(
            "%s: %d of %d records cannot be scored and are left out; the first: %s",
            records.name,
            n_bad,
            len(records),
            first,
        )
    return DataFacts(len(records), n_with_boxes)


def _problem(record: Record, metric: Metric) -> str | None:
    """Why a record cannot be scored, if so."""
    if record.problem is not None:
        return record.problem
    try:
        metric.check(record)
    except ITEM_ERRORS as error:
        return str(error)
    return None

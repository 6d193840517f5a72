"""One judged record: a reference response, and how likely it is without and with crops."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sdrpn_core.errors import ShardError
from sdrpn_core.grid.geometry import Box, Geometry
from sdrpn_core.shards.record_fields import RECORD_FIELDS, of_columns, of_skipped, to_columns

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

__all__ = ["SCHEMA", "Candidate", "UtilityRow", "UtilityStatus", "row_from_table", "rows_to_table"]


class UtilityStatus(str, Enum):
    """What became of a record in the utility stage."""

    OK = "ok"
    UNREADABLE = "unreadable"
    """The image is missing or broken."""
    INVALID = "invalid"
    """The record cannot be asked: no question, no image, or a row of a file that is broken."""
    NO_RESPONSE = "no_response"
    """There is no reference response to judge by."""


_BOXES = pa.list_(pa.list_(pa.int32()))

SCHEMA = pa.schema(
    [
        *RECORD_FIELDS,
        pa.field("response", pa.string()),
        pa.field("response_ids", pa.list_(pa.int64()), nullable=False),
        pa.field("plain", pa.float64()),
        pa.field("sources", pa.list_(pa.string()), nullable=False),
        pa.field("boxes", pa.list_(_BOXES), nullable=False),
        pa.field("grid_boxes", pa.list_(_BOXES), nullable=False),
        pa.field("crop_tokens", pa.list_(pa.int64()), nullable=False),
        pa.field("log_likelihoods", pa.list_(pa.float64()), nullable=False),
        pa.field("geometry", pa.string()),
    ]
)


@dataclass(frozen=True)
class Candidate:
    """A region, and how likely it makes the reference response.

    Attributes:
        source: what proposed it: ``rpn`` (the region that the RPN's own policy crops), ``sampled``
            (drawn from the RPN's map) or ``given`` (the record's boxes).
        boxes: what is cropped, (x0, y0, x1, y1) half-open in source pixels; empty if nothing is.
        grid_boxes: the same in cells of the geometry's grid.
        crop_tokens: visual tokens that its crops add to the prompt.
        log_likelihood: of the reference response with the crops, in nats, summed over its tokens.
    """

    source: str
    boxes: tuple[Box, ...]
    grid_boxes: tuple[Box, ...]
    crop_tokens: int
    log_likelihood: float


@dataclass(frozen=True, eq=False)
class UtilityRow:
    """What the candidates of one record are worth, or the reason why that is not known.

    Attributes:
        index: position of the record in its source.
        id: id of the record.
        question: the question as it was asked.
        image: where to get the image again, see
            :func:`~sdrpn_core.shards.image_cell.portable_image`.
        status: only rows with status ``OK`` carry what follows.
        reason: why the record was skipped, one line; empty for ``OK``.
        response: the reference response.
        response_ids: its token ids, without the end token.
        plain: its log-likelihood without a crop, in nats, summed over its tokens.
        candidates: the judged regions, in the order in which they were proposed.
        geometry: maps the grid to source pixels.

    Raises:
        ShardError: the fields contradict each other, or a likelihood is not finite.
    """

    index: int
    id: str
    question: str
    image: Path | bytes | None
    status: UtilityStatus = UtilityStatus.OK
    reason: str = ""
    response: str | None = None
    response_ids: tuple[int, ...] = ()
    plain: float | None = None
    candidates: tuple[Candidate, ...] = ()
    geometry: Geometry | None = None

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ShardError(f"utility of record {self.id!r} (index {self.index}): {problem}")

    @property
    def utilities(self) -> tuple[float, ...]:
        """Per candidate, the log-likelihood with its crops minus that without, in nats."""
        if self.plain is None:
            return ()
        return tuple(one.log_likelihood - self.plain for one in self.candidates)

    def utility(self, source: str) -> float | None:
        """The utility of the first candidate from a source; ``None`` if there is none."""
        for candidate, utility in zip(self.candidates, self.utilities, strict=True):
            if candidate.source == source:
                return utility
        return None

    @classmethod
    def skip(cls, index: int, record: Record, status: UtilityStatus, reason: str) -> UtilityRow:
        """Make the row of a record that could not be judged.

        Args:
            index: position of the record in its source.
            record: the record; of its image only a path is kept.
            status: any status but ``OK``.
            reason: why, for the user; folded into one line.
        """
        return cls(status=status, **of_skipped(index, record, reason))

    def _problem(self) -> str:
        if self.index < 0:
            return "index must not be negative"
        if self.status is not UtilityStatus.OK:
            if self.response or self.response_ids or self.candidates or self.plain is not None:
                return f"status {self.status.value!r} comes with a response or candidates"
            return "" if self.reason else f"status {self.status.value!r} needs a reason"
        if self.response is None or not self.response_ids or self.geometry is None:
            return "status 'ok' needs a response with tokens, and a geometry"
        if self.plain is None:
            return "status 'ok' needs the likelihood without a crop"
        values = [self.plain, *(one.log_likelihood for one in self.candidates)]
        if not all(math.isfinite(value) for value in values):
            return "a likelihood is not finite"
        if any(len(one.boxes) != len(one.grid_boxes) for one in self.candidates):
            return "a candidate needs as many boxes in cells as in pixels"
        return ""


def rows_to_table(rows: Sequence[UtilityRow]) -> pa.Table:
    """Return rows as an arrow table with :data:`SCHEMA`."""
    return pa.Table.from_pylist([_columns(row) for row in rows], schema=SCHEMA)


def row_from_table(table: pa.Table, position: int) -> UtilityRow:
    """Return row ``position`` of a table with :data:`SCHEMA`.

    Raises:
        ShardError: the values contradict each other.
        ConfigError: the geometry is of a kind that is not known here.
    """
    values = table.slice(position, 1).to_pylist()[0]
    columns = ("sources", "boxes", "grid_boxes", "crop_tokens", "log_likelihoods")
    if len({len(values[name]) for name in columns}) != 1:
        raise ShardError(f"row {position}: the columns of its candidates differ in length")
    candidates = tuple(
        Candidate(source, _boxes(boxes), _boxes(grid_boxes), tokens, log_likelihood)
        for source, boxes, grid_boxes, tokens, log_likelihood in zip(
            *(values[name] for name in columns), strict=True
        )
    )
    geometry = values["geometry"]
    return UtilityRow(
        **of_columns(values, UtilityStatus),
        response=values["response"],
        response_ids=tuple(values["response_ids"]),
        plain=values["plain"],
        candidates=candidates,
        geometry=None if geometry is None else Geometry.from_dict(json.loads(geometry)),
    )


def _boxes(values: Sequence[Sequence[int]]) -> tuple[Box, ...]:
    return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in values)


def _columns(row: UtilityRow) -> dict[str, Any]:
    geometry = row.geometry
    return {
        **to_columns(row),
        "response": row.response,
        "response_ids": row.response_ids,
        "plain": row.plain,
        "sources": [one.source for one in row.candidates],
        "boxes": [one.boxes for one in row.candidates],
        "grid_boxes": [one.grid_boxes for one in row.candidates],
        "crop_tokens": [one.crop_tokens for one in row.candidates],
        "log_likelihoods": [one.log_likelihood for one in row.candidates],
        "geometry": None if geometry is None else json.dumps(geometry.to_dict(), sort_keys=True),
    }

"""One question, answered at several budgets of visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sdrpn_core.errors import InputError, ShardError
from sdrpn_core.gate.budget_labels import AnswerLadder
from sdrpn_core.shards.record_fields import RECORD_FIELDS, of_columns, of_skipped, to_columns

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

__all__ = ["SCHEMA", "LadderRow", "LadderStatus", "row_from_table", "rows_to_table"]


class LadderStatus(str, Enum):
    """What became of a record that was to be answered at several budgets."""

    OK = "ok"
    UNREADABLE = "unreadable"
    """The image is missing or broken."""
    INVALID = "invalid"
    """The record cannot be asked: no question, no image, or a row of a file that is broken."""
    NO_ANSWER = "no_answer"
    """The record names no correct answer, which the rule for labels compares with."""


SCHEMA = pa.schema(
    [
        *RECORD_FIELDS,
        pa.field("resolutions", pa.list_(pa.int64()), nullable=False),
        pa.field("visual_tokens", pa.list_(pa.int64()), nullable=False),
        pa.field("answers", pa.list_(pa.string()), nullable=False),
        pa.field("truths", pa.list_(pa.string()), nullable=False),
    ]
)


@dataclass(frozen=True, eq=False)
class LadderRow:
    """The answers to one question, or the reason why there are none.

    Attributes:
        index: position of the record in its source.
        id: id of the record.
        question: the question as it was asked.
        image: where to get the image again, see
            :func:`~sdrpn_core.shards.image_cell.portable_image`.
        status: only rows with status ``OK`` carry what follows.
        reason: why the record was skipped, one line; empty for ``OK``.
        resolutions: budgets of visual tokens, ascending.
        visual_tokens: how many the image took at each; small images fill no large budget.
        answers: one for each.
        truths: the correct answers.

    Raises:
        ShardError: the fields contradict each other.
    """

    index: int
    id: str
    question: str
    image: Path | bytes | None
    status: LadderStatus = LadderStatus.OK
    reason: str = ""
    resolutions: tuple[int, ...] = ()
    visual_tokens: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()
    truths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ShardError(f"answers to record {self.id!r} (index {self.index}): {problem}")

    @property
    def ladder(self) -> AnswerLadder:
        """The answers, as the rule for labels takes them.

        Raises:
            InputError: the record was skipped.
        """
        if self.status is not LadderStatus.OK:
            raise InputError(f"record {self.id!r} was not answered: {self.reason}")
        return AnswerLadder(self.resolutions, self.answers, self.truths)

    @classmethod
    def skip(cls, index: int, record: Record, status: LadderStatus, reason: str) -> LadderRow:
        """Make the row of a record that could not be answered.

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
        if self.status is not LadderStatus.OK:
            if self.answers or self.truths:
                return f"status {self.status.value!r} comes with answers"
            return "" if self.reason else f"status {self.status.value!r} needs a reason"
        if len(self.visual_tokens) != len(self.resolutions):
            return f"{len(self.visual_tokens)} counts of tokens, {len(self.resolutions)} budgets"
        try:
            AnswerLadder(self.resolutions, self.answers, self.truths)
        except InputError as error:
            return str(error)
        return ""


def rows_to_table(rows: Sequence[LadderRow]) -> pa.Table:
    """Return rows as an arrow table with :data:`SCHEMA`."""
    return pa.Table.from_pylist([_columns(row) for row in rows], schema=SCHEMA)


def row_from_table(table: pa.Table, position: int) -> LadderRow:
    """Return row ``position`` of a table with :data:`SCHEMA`.

    Raises:
        ShardError: the values contradict each other.
    """
    values = table.slice(position, 1).to_pylist()[0]
    return LadderRow(
        **of_columns(values, LadderStatus),
        resolutions=tuple(values["resolutions"]),
        visual_tokens=tuple(values["visual_tokens"]),
        answers=tuple(values["answers"]),
        truths=tuple(values["truths"]),
    )


def _columns(row: LadderRow) -> dict[str, Any]:
    return {**vars(row), **to_columns(row)}

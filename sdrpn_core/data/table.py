"""Records that are made from the rows of a table, whatever holds it."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sdrpn_core.data.conversations import turns
from sdrpn_core.data.fields import Fields, Row
from sdrpn_core.data.image_cells import ImageCells
from sdrpn_core.data.options import ReadOptions
from sdrpn_core.data.parsing import (
    UniqueIds,
    UsableRows,
    make_record,
    row_id,
    text_digest,
    unusable_record,
)
from sdrpn_core.data.record import Record, RecordSource
from sdrpn_core.errors import InputError

__all__ = ["Table", "TableRecords"]

logger = logging.getLogger(__name__)


class Table(ABC):
    """Rows in an order.

    Attributes:
        name: what the user called it.
        unit: what a row is called in messages.
        scans_images: whether :meth:`scan` gives rows with their images.
    """

    name: str
    unit = "row"
    scans_images = True

    @abstractmethod
    def scan(self, fields: Fields) -> Iterator[Row | str]:
        """Go through the rows in order; of a broken one, why it cannot be used.

        Columns that hold no field may be left out of the rows.

        Raises:
            InputError: The table cannot be read, or lacks a column that every table has.
        """

    @abstractmethod
    def row(self, position: int) -> Row | str:
        """Read a whole row; of a broken one, why it cannot be used.

        Raises:
            InputError: It can no longer be read.
        """

    @abstractmethod
    def where(self, position: int) -> str:
        """The place of a row, for messages."""

    def number(self, position: int) -> int:
        """The number of a row, in the table's own unit."""
        return position

    @abstractmethod
    def folder(self, position: int) -> Path:
        """Folder of the relative paths in a row."""

    @abstractmethod
    def columns(self) -> list[str]:
        """The names of all columns, known once the table was scanned."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of what the table holds besides the fields of its records, or nothing."""


class TableRecords(RecordSource):
    """The records of a table.

    A row that cannot be used, or that repeats an id, becomes a record with a ``problem``. A row
    with a conversation becomes a record per question, whose id is the row's and a number.

    Args:
        table: The rows; read once here, to check them.
        options: How they are read; ``split`` is the table's own affair.

    Raises:
        InputError: The table cannot be read, lacks a column, or has no row that can be used.
        UnknownNameError: A record has no field that ``options`` names a column of.
    """

    def __init__(self, table: Table, options: ReadOptions) -> None:
        self.name = table.name
        self._table = table
        self._fields = Fields(options.columns)
        root = None if options.image_root is None else Path(options.image_root)
        self._cells = ImageCells(root, options.allow_urls)
        self._positions = array("Q")
        self._turns = array("L")
        self._repeated: dict[int, str] = {}
        digest = hashlib.sha256()
        ids = UniqueIds(self.name, table.unit)
        rows = UsableRows(self.name)
        for position, record, turn in self._scan():
            index = len(self._positions)
            self._positions.append(position)
            self._turns.append(turn)
            place = table.number(position)
            repeated = None if record.problem else ids.add(record.id, place)
            if repeated is not None:
                self._repeated[index] = repeated
            rows.add(record.problem or repeated)
            digest.update(text_digest(record) + b"\n")
        rows.check()
        digest.update(f"{table.fingerprint} {sorted(options.columns.items())}".encode())
        self._fingerprint = digest.hexdigest()
        self._name_unused()

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def fingerprint(self) -> str:
        """Hex digest of all fields but the images, and of what names them."""
        return self._fingerprint

    def outlines(self) -> Iterator[Record]:
        """Go through the records without their images, which is quick."""
        for index, (_, record, _) in enumerate(self._scan()):
            yield self._checked(replace(record, images=()), index)

    def _record(self, index: int) -> Record:
        position, turn = self._positions[index], self._turns[index]
        found = self._make(self._table.row(position), position, load=True)
        if turn >= len(found):
            raise InputError(f"{self._table.where(position)}: cannot be read: it changed")
        return self._checked(found[turn], index)

    def _checked(self, record: Record, index: int) -> Record:
        repeated = self._repeated.get(index)
        return record if repeated is None else replace(record, problem=repeated)

    def _scan(self) -> Iterator[tuple[int, Record, int]]:
        for position, row in enumerate(self._table.scan(self._fields)):
            for turn, record in enumerate(self._make(row, position, load=False)):
                yield position, record, turn

    def _make(self, row: Row | str, position: int, *, load: bool) -> list[Record]:
        """The records of a row: several if it holds a conversation."""
        where = self._table.where(position)
        if isinstance(row, str):
            return [unusable_record(row_id({}, self._fields, position), f"{where}: {row}")]
        try:
            fields = self._fields
            has_images = load or self._table.scans_images
            value = fields.value(row, "image") if has_images else None
            images = self._cells.read(value, self._table.folder(position), where, load=load)
            conversation = fields.value(row, "conversations")
            own_id = row_id(row, fields, position)
            if conversation is None or fields.columns(row, "question"):
                self._check_question(row, where)
                return [make_record(row, fields, images, own_id, where)]
            asked = turns(conversation, where)
            rest = {k: v for k, v in row.items() if k not in fields.columns(row, "conversations")}
            found = [make_record({**rest, **one}, fields, images, own_id, where) for one in asked]
        except InputError as error:
            return [unusable_record(row_id(row, self._fields, position), str(error))]
        if len(found) == 1:
            return found
        return [replace(one, id=f"{own_id}/{turn}") for turn, one in enumerate(found)]

    def _check_question(self, row: Row, where: str) -> None:
        if not self._fields.columns(row, "question"):
            hints = "".join(f": --column {hint}" for hint in self._fields.likely(row)["question"])
            raise InputError(f"{where}: 'question' is missing{hints}")

    def _name_unused(self) -> None:
        """Name the columns that look meant for a field which no column was read for."""
        likely = self._fields.likely(self._table.columns())
        if hints := [hint for found in likely.values() for hint in found]:
            logger.warning(
                "%s: columns that are not used, but look meant: %s",
                self.name,
                ", ".join(f"{hint.partition('=')[2]} (--column {hint})" for hint in hints),
            )

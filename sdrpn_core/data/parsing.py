"""From the values of a row to a :class:`Record`: the checks that all file formats share."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from sdrpn_core.data.record import Record
from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sdrpn_core.data.record import ImageSource
    from sdrpn_core.grid.geometry import Box

__all__ = [
    "OPTIONAL_COLUMNS",
    "REQUIRED_COLUMNS",
    "UniqueIds",
    "beside",
    "make_record",
    "text_digest",
    "type_name",
    "unreadable",
]

REQUIRED_COLUMNS = ("image", "question")
OPTIONAL_COLUMNS = ("id", "response", "answer", "boxes")

DEFAULT_ID_DIGITS = 8
"""Width of the zero-padded index that stands in for a missing id: sorts well up to 100 million."""

_COORDINATES = 4


class UniqueIds:
    """Refuses an id that was seen before.

    Args:
        where: The source, for the message.
        unit: What is counted in it, such as ``"line"``.
    """

    def __init__(self, where: str, unit: str) -> None:
        self._where = where
        self._unit = unit
        self._first: dict[str, int] = {}

    def add(self, record_id: str, number: int) -> None:
        """Note the id that stands at ``number``.

        Raises:
            InputError: It was noted before; names both places.
        """
        first = self._first.setdefault(record_id, number)
        if first != number:
            raise InputError(
                f"{self._where}: {self._unit} {number}: id {record_id!r} is already used by "
                f"{self._unit} {first}; ids must be unique"
            )


def text_digest(record: Record) -> bytes:
    """Return the texts and boxes of a record as bytes for a fingerprint."""
    fields = (record.id, record.question, record.response, record.answer, record.boxes)
    return json.dumps(fields).encode()


def make_record(
    row: Mapping[str, Any], image: ImageSource | None, index: int, where: str
) -> Record:
    """Make a record from the values of a row.

    Args:
        row: Values by column; missing optional columns count as null.
        image: The image, which each format spells in its own way.
        index: Position of the record in its source, the id of a record that brings none.
        where: The row's place, for messages.

    Raises:
        InputError: A value has the wrong type or is impossible; names the place.
    """
    record_id = _text(row, "id", where, numbers=True)
    return Record(
        id=f"{index:0{DEFAULT_ID_DIGITS}d}" if record_id is None else record_id,
        image=image,
        question=_text(row, "question", where) or "",
        response=_text(row, "response", where),
        answer=_text(row, "answer", where, numbers=True),
        boxes=_boxes(row.get("boxes"), where),
    )


def _text(row: Mapping[str, Any], column: str, where: str, *, numbers: bool = False) -> str | None:
    value = row.get(column)
    if value is None:
        return None
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InputError(f"{where}: {column!r} must be text, got {type_name(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise InputError(f"{where}: {column!r} is not valid Unicode: {error.reason}") from error
    return value


def _boxes(value: Any, where: str) -> tuple[Box, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise InputError(f"{where}: 'boxes' must be a list of [x0, y0, x1, y1], got {value!r}")
    return tuple(_box(box, where) for box in value)


def _box(value: Any, where: str) -> Box:
    if (
        not isinstance(value, list)
        or len(value) != _COORDINATES
        or not all(_is_whole(coordinate) for coordinate in value)
    ):
        raise InputError(f"{where}: a box must be four whole pixels x0, y0, x1, y1, got {value!r}")
    x0, y0, x1, y1 = (int(coordinate) for coordinate in value)
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"{where}: box {value!r} is empty: x1 and y1 are exclusive ends")
    return x0, y0, x1, y1


def _is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value) and value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def type_name(value: Any) -> str:
    """Return the name of a value's type, for messages."""
    return type(value).__name__


def beside(file: Path, path: str | None) -> Path | None:
    """Resolve an image's path against the folder of the file that names it."""
    return file.parent / path if path else None


def unreadable(path: Path, error: Exception) -> InputError:
    """Return the error for a file that could be opened no longer, or not at all."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or "it changed"
    return InputError(f"{path}: cannot be read: {reason}")

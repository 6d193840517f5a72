"""From the values of a row to a :class:`Record`: the checks that all file formats share.

A value with one meaning is accepted, however it is spelled. A row that cannot be used becomes a
record that says why: it is skipped later, and does not spoil its file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdrpn_core.data.fields import LETTERS, Fields
from sdrpn_core.data.record import Record
from sdrpn_core.data.text import check_text
from sdrpn_core.errors import InputError
from sdrpn_core.util.formatting import short_repr

if TYPE_CHECKING:
    from pathlib import Path

    from sdrpn_core.data.record import ImageSource
    from sdrpn_core.grid.geometry import Box

__all__ = [
    "UniqueIds",
    "UsableRows",
    "make_record",
    "row_id",
    "text_digest",
    "type_name",
    "unreadable",
    "unusable_record",
]

DEFAULT_ID_DIGITS = 8
"""Width of the zero-padded index that stands in for a missing id: sorts well up to 100 million."""

_COORDINATES = 4

_MAX_COORDINATE = 2**31
"""In pixels; no image is larger."""


class UniqueIds:
    """Notices an id that was seen before.

    Args:
        where: The source, for the message.
        unit: What is counted in it, such as ``"line"``.
    """

    def __init__(self, where: str, unit: str) -> None:
        self._where = where
        self._unit = unit
        self._first: dict[str, int] = {}

    def add(self, record_id: str, number: int) -> str | None:
        """Note the id that stands at ``number``.

        Returns:
            ``None``, or that the id was noted before, naming both places.
        """
        first = self._first.setdefault(record_id, number)
        if first == number:
            return None
        return (
            f"{self._where}: {self._unit} {number}: id {short_repr(record_id)} is already used by "
            f"{self._unit} {first}; ids must be unique"
        )


class UsableRows:
    """Makes sure that a file has a row that can be used.

    Args:
        where: The file or folder, for the message.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._rows = self._usable = 0
        self._first_problem: str | None = None

    def add(self, problem: str | None) -> None:
        """Count a row; ``problem`` says why it cannot be used, if so."""
        self._rows += 1
        if problem is None:
            self._usable += 1
        elif self._first_problem is None:
            self._first_problem = problem

    def check(self) -> None:
        """Refuse a file without any.

        Raises:
            InputError: It holds no rows, or none that can be used; names the first of them.
        """
        if not self._rows:
            raise InputError(f"{self._where}: holds no records")
        if not self._usable:
            raise InputError(
                f"{self._where}: none of {self._rows} records can be used; the first: "
                f"{self._first_problem}"
            )


def text_digest(record: Record) -> bytes:
    """Return everything but the images of a record as bytes for a fingerprint."""
    facts = (
        record.id,
        record.question,
        record.response,
        record.answers,
        record.options,
        record.category,
        record.boxes,
        record.extra,
    )
    return json.dumps(facts, default=type_name).encode()  # what is no text is refused later


def make_record(
    row: Mapping[str, Any],
    fields: Fields,
    images: tuple[ImageSource, ...],
    default_id: str,
    where: str,
) -> Record:
    """Make a record from the values of a row.

    Args:
        row: Values by column; missing optional columns count as null.
        fields: Which columns hold what.
        images: The images, which each format spells in its own way.
        default_id: The id of a record that brings none.
        where: The row's place, for messages.

    Raises:
        InputError: A value has the wrong type or is impossible.
    """

    def value(field: str) -> Any:
        try:
            return fields.value(row, field)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    options = _options(value("options"), where)
    category = value("category")
    is_name = isinstance(category, (str, int)) and not isinstance(category, bool)
    return Record(
        id=_number_or_text(value("id"), "id", where) or default_id,
        images=images,
        question=_text(value("question"), "question", where) or "",
        response=_text(only_element(value("response")), "response", where),
        answers=_answers(value("answer"), options, fields.has_lettered_options, where),
        options=options,
        category=_number_or_text(category, "category", where) if is_name else None,
        boxes=_boxes(value("boxes"), where),
        extra=fields.extra(row, but="" if is_name else "category"),
    )


def unusable_record(record_id: str, problem: str) -> Record:
    """Stand in for a row that cannot be used.

    Args:
        record_id: Its id.
        problem: Why it cannot be used, and where it stands.
    """
    return Record(record_id, (), "", problem=problem)


def row_id(row: Mapping[str, Any], fields: Fields, position: int) -> str:
    """Return the id of a row: its own if it has a usable one, else its zero-padded position."""
    try:
        given = _number_or_text(fields.value(row, "id"), "id", "")
    except InputError:
        given = None
    return given or f"{position:0{DEFAULT_ID_DIGITS}d}"


def only_element(value: Any) -> Any:
    """Return the element of a list of one, and anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _answers(
    value: Any, options: tuple[str, ...], are_letters: bool, where: str
) -> tuple[str, ...]:
    """All accepted answers; of a multiple-choice question, as letters."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = value["text"]  # as SQuAD has them
    answers = []
    for item in value if isinstance(value, list) else [value]:
        one = item.get("answer") if isinstance(item, Mapping) else item  # as VQAv2 has them
        text = _number_or_text(one, "answer", where)
        if text is not None:
            answers.append(_letter(text, one, options, are_letters, where) if options else text)
    return tuple(answers)


def _letter(text: str, value: Any, options: tuple[str, ...], is_letter: bool, where: str) -> str:
    """The letter of the option that an answer means.

    Raises:
        InputError: It means none of them, or several.
    """
    named = text.strip().upper()
    meant = {i for i in range(len(options)) if LETTERS[i] == named}
    if not is_letter:
        meant |= {i for i, option in enumerate(options) if option == text}
        if isinstance(value, int) and 0 <= value < len(options):
            meant.add(value)
    if len(meant) != 1:
        problem = "means several" if meant else "is none"
        raise InputError(f"{where}: answer {short_repr(text)} {problem} of the options")
    return LETTERS[meant.pop()]


def _options(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list):
        raise InputError(f"{where}: 'options' must be a list of texts, got {short_repr(value)}")
    texts = [None if one != one else _number_or_text(one, "options", where) for one in value]
    while texts and texts[-1] is None:  # tables pad the options of questions that have fewer
        texts.pop()
    if None in texts:
        raise InputError(f"{where}: option {LETTERS[texts.index(None)]} is missing")
    if len(texts) > len(LETTERS):
        raise InputError(f"{where}: {len(texts)} options, but only {len(LETTERS)} have a letter")
    return tuple(text for text in texts if text is not None)


def _number_or_text(value: Any, column: str, where: str) -> str | None:
    value = only_element(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        # Other tools write whole numbers as floats where some rows have none.
        return str(int(value)) if value.is_integer() else repr(value)
    return _text(value, column, where)


def _text(value: Any, column: str, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(
            f"{where}: {column!r} must be text, got {type_name(value)} {short_repr(value)}"
        )
    check_text(value, f"{where}: {column!r}")
    return value


def _boxes(value: Any, where: str) -> tuple[Box, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise InputError(
            f"{where}: 'boxes' must be a list of [x0, y0, x1, y1], got {short_repr(value)}"
        )
    if len(value) == _COORDINATES and all(map(_is_coordinate, value)):
        return (_box(value, where),)
    return tuple(_box(box, where) for box in value)


def _box(value: Any, where: str) -> Box:
    if (
        not isinstance(value, list)
        or len(value) != _COORDINATES
        or not all(map(_is_coordinate, value))
    ):
        raise InputError(
            f"{where}: a box must be four numbers of pixels x0, y0, x1, y1, got {short_repr(value)}"
        )
    # The whole pixels that a box with fractions touches.
    x0, y0 = (math.floor(coordinate) for coordinate in value[:2])
    x1, y1 = (math.ceil(coordinate) for coordinate in value[2:])
    if all(0 <= one <= 1 for one in value) and any(one != int(one) for one in value):
        raise InputError(
            f"{where}: box {value!r} seems to be relative to the image: boxes are in pixels"
        )
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"{where}: box {value!r} is empty: x1 and y1 are exclusive ends")
    return x0, y0, x1, y1


def _is_coordinate(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= _MAX_COORDINATE  # which neither NaN nor infinity is
    )


def type_name(value: Any) -> str:
    """Return the name of a value's type, for messages."""
    return type(value).__name__


def unreadable(path: Path, error: Exception) -> InputError:
    """Return the error for a file that could be opened no longer, or not at all."""
    reason = getattr(error, "strerror", None) or str(error) or "it changed"
    return InputError(f"{path}: cannot be read: {reason}")

"""Which columns of a table hold the fields of a record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from sdrpn_core.errors import InputError, UnknownNameError

__all__ = ["FIELDS", "LETTERS", "Fields", "Row"]

Row: TypeAlias = dict[str, Any]
"""Values by column."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "images"),
    "question": ("question",),
    "id": ("id",),
    "response": ("response",),
    "answer": ("answers", "answer"),
    "options": ("options",),
    "category": ("category",),
    "boxes": ("boxes",),
    "conversations": ("conversations",),
}
"""Fields, and the columns that hold them unless others are named: the first that has a value."""

_PLURALS = {"images": "image", "answers": "answer"}

_LIKELY: Mapping[str, tuple[str, ...]] = {
    "image": ("img", "image_path", "image_file", "file_name", "filename", "jpg", "png"),
    "question": ("query", "text", "prompt", "problem", "instruction"),
    "answer": ("label", "labels", "target", "gt_answer", "ground_truth", "gt", "solution"),
    "options": ("choices", "choice", "multiple_choices", "candidates"),
    "boxes": ("bbox", "bboxes", "bboxs", "box", "bounding_box", "bounding_boxes"),
}
"""Columns of other names that are likely to hold a field, in lower case."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of the options of a multiple-choice question, in order."""

_SEPARATOR = ","
"""Between the columns of a field that is spread over several, such as options A, B, C and D."""


class Fields:
    """Finds the fields of a record among the columns of a row.

    Args:
        columns: column by field; several columns are separated by commas, and an empty name stands
            for none.

    Raises:
        UnknownNameError: A record has no such field.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._named: dict[str, str] = {}
        for name, column in columns.items():
            field = _PLURALS.get(name, name)
            if field not in FIELDS:
                raise UnknownNameError("field of a record", name, FIELDS)
            self._named[field] = column

    def value(self, row: Mapping[str, Any], field: str) -> Any:
        """The value of a field; ``None`` if no column has one.

        Several named columns give a list of their values.

        Raises:
            InputError: A column that was named is missing.
        """
        columns = self._columns(row, field)
        if not self._named.get(field, field):
            return None
        if field not in self._named:
            return next((row[name] for name in columns if row[name] is not None), None)
        if not columns:
            missing = self._missing(field, row)
            raise InputError(f"column {missing!r} is missing (columns: {', '.join(row)})")
        values = [row[name] for name in columns]
        return values if _SEPARATOR in self._named[field] and len(values) > 1 else values[0]

    @property
    def has_lettered_options(self) -> bool:
        """Whether the options stand in columns A, B, ..., so that the answer is such a letter."""
        columns = [part.strip() for part in self._named.get("options", "").split(_SEPARATOR)]
        return len(columns) > 1 and columns == list(LETTERS[: len(columns)])

    def extra(self, row: Mapping[str, Any], *, but: str = "") -> Row:
        """The columns that hold no field, and those of the field ``but``."""
        used = {name for field in FIELDS if field != but for name in self._columns(row, field)}
        return {name: value for name, value in row.items() if name not in used}

    def columns(self, names: Iterable[str], *fields: str) -> list[str]:
        """Those of the columns ``names`` that hold one of the fields."""
        found = dict.fromkeys(names)
        wanted = {name for field in fields for name in self._columns(found, field)}
        return [name for name in found if name in wanted]

    def check(self, names: Iterable[str]) -> None:
        """Refuse a table without questions or images, or without a column that was named.

        Raises:
            InputError: Names what is missing, what there is, and what may be meant.
        """
        found = dict.fromkeys(names)
        listed = f"(columns: {', '.join(found)})"
        for field, column in self._named.items():
            if column and not self._columns(found, field):
                raise InputError(f"column {self._missing(field, found)!r} is missing {listed}")
        if self._columns(found, "conversations"):
            return
        for field in ("question", "image"):
            if not self._columns(found, field):
                hint = "".join(f": --column {likely}" for likely in self.likely(found)[field])
                raise InputError(f"column {field!r} is missing {listed}{hint}")

    def likely(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Columns that look meant for a field which has none, as ``field=column``."""
        found = dict.fromkeys(names)
        used = {name for field in FIELDS for name in self._columns(found, field)}
        hints = {}
        for field, likely in _LIKELY.items():
            has_column = bool(self._columns(found, field))
            hints[field] = [
                f"{field}={name}"
                for name in found
                if name.lower() in likely and name not in used and not has_column
            ]
        if self._columns(found, "conversations"):
            hints["question"] = hints["answer"] = []
        return hints

    def _columns(self, names: Mapping[str, Any], field: str) -> list[str]:
        """The columns of a field that are there; none if a named one is missing."""
        if field not in self._named:
            return [name for name in FIELDS[field] if name in names]
        named = self._named[field]
        if not named:
            return []
        if named in names:
            return [named]
        parts = [part.strip() for part in named.split(_SEPARATOR)]
        return parts if all(part in names for part in parts) else []

    def _missing(self, field: str, names: Mapping[str, Any]) -> str:
        parts = [part.strip() for part in self._named[field].split(_SEPARATOR)]
        return next(part for part in parts if part not in names)

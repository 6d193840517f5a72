"""The rows of a JSON file: a list of objects, as many VQA sets are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdrpn_core.data.fields import Fields, Row
from sdrpn_core.data.parsing import type_name, unreadable
from sdrpn_core.data.table import Table
from sdrpn_core.errors import InputError
from sdrpn_core.util.formatting import readable_bytes

__all__ = ["JsonTable"]

MAX_JSON_BYTES = 2**31
"""The file is parsed as a whole; a larger one belongs into JSONL, which is read line by line."""

_ROWS_WITH_COLUMNS = 1000
"""Rows whose keys are taken for the table's columns."""


class JsonTable(Table):
    """A JSON file that holds a list of objects, alone or as the only list of an outer object.

    The whole file is parsed and kept in memory.

    Args:
        path: The file; image paths are relative to its folder.

    Raises:
        InputError: Unreadable or too large, not JSON, or without a list of objects.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            size = path.stat().st_size
            if size > MAX_JSON_BYTES:
                raise InputError(
                    f"{path}: {readable_bytes(size)} of JSON are over the limit of "
                    f"{readable_bytes(MAX_JSON_BYTES)}: write one object per line (.jsonl)"
                )
            data = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from error
        self._fingerprint = hashlib.sha256(data).hexdigest()
        try:
            self._rows = self._list(json.loads(data.decode("utf-8-sig")))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not JSON: {error}") from error

    def scan(self, fields: Fields) -> Iterator[Row | str]:
        """Go through the objects, whole."""
        return map(self.row, range(len(self._rows)))

    def row(self, position: int) -> Row | str:
        """An object of the list."""
        row = self._rows[position]
        return row if isinstance(row, dict) else f"not a JSON object but {type_name(row)}"

    def where(self, position: int) -> str:
        """File and row, from 0."""
        return f"{self._path}: row {position}"

    def folder(self, position: int) -> Path:
        """The file's."""
        return self._path.parent

    def columns(self) -> list[str]:
        """The keys of the first rows."""
        first = (row for row in self._rows[:_ROWS_WITH_COLUMNS] if isinstance(row, dict))
        return list(dict.fromkeys(key for row in first for key in row))

    @property
    def fingerprint(self) -> str:
        """Hex digest of the file's bytes; the images it names are not part of it."""
        return self._fingerprint

    def _list(self, value: Any) -> list[Any]:
        if isinstance(value, dict):
            lists = [one for one in value.values() if isinstance(one, list)]
            value = lists[0] if len(lists) == 1 else value
        if isinstance(value, list):
            return value
        raise InputError(f"{self._path}: must hold a list of objects, not {type_name(value)}")

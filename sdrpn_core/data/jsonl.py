"""The rows of a JSONL file.

Opening the file reads it, to find its lines; a row is parsed again when its record is asked for.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sdrpn_core.data.fields import Fields, Row
from sdrpn_core.data.parsing import type_name, unreadable
from sdrpn_core.data.table import Table
from sdrpn_core.errors import InputError
from sdrpn_core.util.formatting import readable_bytes

__all__ = ["JsonlTable"]

MAX_LINE_BYTES = 2**26
"""A longer line cannot be used: there is room for an image, should someone have put one there."""

_ROWS_WITH_COLUMNS = 1000
"""Rows whose keys are taken for the table's columns."""


class JsonlTable(Table):
    """One JSON object per line; blank lines are ignored.

    Args:
        path: The file; image paths are relative to its folder.

    Raises:
        InputError: Unreadable file, or not a text file.
    """

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._offsets = array("Q")
        self._lines = array("Q")
        self._columns: dict[str, None] = {}
        digest = hashlib.sha256()
        offset = number = 0
        try:
            with path.open("rb") as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    digest.update(line)
                    if line.strip():
                        self._offsets.append(offset)
                        self._lines.append(number)
                    offset += len(line)
                    if len(line) > MAX_LINE_BYTES:
                        offset += self._skip_line(file, digest)
        except OSError as error:
            raise unreadable(path, error) from error
        self._fingerprint = digest.hexdigest()

    def scan(self, fields: Fields) -> Iterator[Row | str]:
        """Go through the lines, whole."""
        try:
            with self._path.open("rb") as file:
                for position, offset in enumerate(self._offsets):
                    file.seek(offset)
                    row = self._parse(file.readline(MAX_LINE_BYTES + 1), position)
                    if position < _ROWS_WITH_COLUMNS and not isinstance(row, str):
                        self._columns |= dict.fromkeys(row)
                    yield row
        except OSError as error:
            raise unreadable(self._path, error) from error

    def row(self, position: int) -> Row | str:
        """Read a line again."""
        # Opened anew each time: a shared handle would share its position with forked workers.
        try:
            with self._path.open("rb") as file:
                file.seek(self._offsets[position])
                return self._parse(file.readline(MAX_LINE_BYTES + 1), position)
        except OSError as error:
            raise unreadable(self._path, error) from error

    def where(self, position: int) -> str:
        """File and line."""
        return f"{self._path}: line {self._lines[position]}"

    def number(self, position: int) -> int:
        """The number of a line, from 1."""
        return self._lines[position]

    def folder(self, position: int) -> Path:
        """The file's."""
        return self._path.parent

    def columns(self) -> list[str]:
        """The keys of the first rows."""
        return list(self._columns)

    @property
    def fingerprint(self) -> str:
        """Hex digest of the file's bytes; the images it names are not part of it."""
        return self._fingerprint

    def _skip_line(self, file: BinaryIO, digest: hashlib._Hash) -> int:
        """Read to the end of a line that is too long; return how much that was.

        Raises:
            InputError: There are zero bytes in it, as in a file of any other kind.
        """
        skipped = 0
        while part := file.readline(MAX_LINE_BYTES):
            if b"\0" in part:
                raise InputError(
                    f"{self._path}: line {self._lines[-1]}: not text: not a JSONL file"
                )
            digest.update(part)
            skipped += len(part)
            if part.endswith(b"\n"):
                break
        return skipped

    def _parse(self, line: bytes, position: int) -> Row | str:
        if len(line) > MAX_LINE_BYTES:
            return f"longer than {readable_bytes(MAX_LINE_BYTES)}"
        try:
            # Some editors put a byte-order mark before the first line.
            row = json.loads(line.decode("utf-8-sig" if position == 0 else "utf-8"))
        except (ValueError, RecursionError) as error:
            return f"not a JSON object: {error}"
        return row if isinstance(row, dict) else f"not a JSON object but {type_name(row)}"

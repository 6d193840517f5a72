"""Records in a JSONL file.

Opening the file reads it once, to check it; a record is read again when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from pathlib import Path

from sdrpn_core.data.parsing import (
    REQUIRED_COLUMNS,
    UniqueIds,
    beside,
    make_record,
    type_name,
    unreadable,
)
from sdrpn_core.data.record import Record, RecordSource
from sdrpn_core.errors import InputError

__all__ = ["JsonlRecords"]


class JsonlRecords(RecordSource):
    """One JSON object per line; blank lines are ignored.

    Args:
        path: The file; image paths are relative to its folder.

    Raises:
        InputError: Unreadable file, bad line, missing or mistyped value, duplicate id; with the
            line.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._offsets = array("Q")
        self._lines = array("Q")
        digest = hashlib.sha256()
        ids = UniqueIds(str(path), "line")
        offset = 0
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    digest.update(line)
                    if line.strip():
                        self._offsets.append(offset)
                        self._lines.append(number)
                        ids.add(self._parse(line, len(self._offsets) - 1).id, number)
                    offset += len(line)
        except OSError as error:
            raise unreadable(path, error) from error
        if not self._offsets:
            raise InputError(f"{path}: holds no records")
        self._fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def fingerprint(self) -> str:
        """Hex digest of the file's bytes; the images it names are not part of it."""
        return self._fingerprint

    def _record(self, index: int) -> Record:
        # Opened anew each time: a shared handle would share its position with forked workers.
        try:
            with self._path.open("rb") as file:
                file.seek(self._offsets[index])
                return self._parse(file.readline(), index)
        except OSError as error:
            raise unreadable(self._path, error) from error

    def _parse(self, line: bytes, index: int) -> Record:
        where = f"{self._path}: line {self._lines[index]}"
        try:
            # Some editors put a byte-order mark before the first line.
            row = json.loads(line.decode("utf-8-sig" if index == 0 else "utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: not a JSON object but {type_name(row)}")
        for column in REQUIRED_COLUMNS:
            if column not in row:
                raise InputError(f"{where}: {column!r} is missing")
        image = row["image"]
        if image is not None and not isinstance(image, str):
            raise InputError(f"{where}: 'image' must be a path, got {type_name(image)}")
        return make_record(row, beside(self._path, image), index, where)

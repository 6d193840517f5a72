"""Records in a JSONL file.

Opening the file reads it once, to check it; a record is read again when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from sdrpn_core.data.parsing import (
    UniqueIds,
    UsableRows,
    beside,
    make_record,
    only_element,
    type_name,
    unreadable,
    unusable_record,
)
from sdrpn_core.data.record import Record, RecordSource
from sdrpn_core.data.text import check_text
from sdrpn_core.errors import InputError
from sdrpn_core.util.formatting import readable_bytes, short_repr

__all__ = ["JsonlRecords"]

MAX_LINE_BYTES = 2**26
"""A longer line cannot be used: there is room for an image, should someone have put one there."""


class JsonlRecords(RecordSource):
    """One JSON object per line; blank lines are ignored.

    A line that cannot be used, or that repeats an id, becomes a record with a ``problem``.

    Args:
        path: The file; image paths are relative to its folder.

    Raises:
        InputError: Unreadable file, one without a usable line, or not a text file.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._offsets = array("Q")
        self._lines = array("Q")
        self._repeated: dict[int, str] = {}
        digest = hashlib.sha256()
        ids = UniqueIds(str(path), "line")
        rows = UsableRows(str(path))
        offset = number = 0
        try:
            with path.open("rb") as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    digest.update(line)
                    if line.strip():
                        self._offsets.append(offset)
                        self._lines.append(number)
                        rows.add(self._check(line, ids))
                    offset += len(line)
                    if len(line) > MAX_LINE_BYTES:
                        offset += self._skip_line(file, digest)
        except OSError as error:
            raise unreadable(path, error) from error
        rows.check()
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
                record = self._parse(file.readline(MAX_LINE_BYTES + 1), index)
        except OSError as error:
            raise unreadable(self._path, error) from error
        repeated = self._repeated.get(index)
        return record if repeated is None else replace(record, problem=repeated)

    def _check(self, line: bytes, ids: UniqueIds) -> str | None:
        """Why the line that was found last cannot be used, if so."""
        index = len(self._offsets) - 1
        record = self._parse(line, index)
        if record.problem is not None:
            return record.problem
        repeated = ids.add(record.id, self._lines[index])
        if repeated is not None:
            self._repeated[index] = repeated
        return repeated

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

    def _parse(self, line: bytes, index: int) -> Record:
        where = f"{self._path}: line {self._lines[index]}"
        row: Any = None
        try:
            row = _json_object(line, where, first=index == 0)
            image = _image_path(row, where)
        except InputError as error:
            return unusable_record(index, str(error), row)
        return make_record(row, beside(self._path, image), index, where)


def _json_object(line: bytes, where: str, *, first: bool) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise InputError(f"{where}: longer than {readable_bytes(MAX_LINE_BYTES)}")
    try:
        # Some editors put a byte-order mark before the first line.
        row = json.loads(line.decode("utf-8-sig" if first else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a JSON object: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object but {type_name(row)}")
    return row


def _image_path(row: dict[str, Any], where: str) -> str | None:
    if "question" not in row:
        raise InputError(f"{where}: 'question' is missing")
    image = only_element(row.get("image"))
    if image is None:
        return None
    if not isinstance(image, str):
        raise InputError(
            f"{where}: 'image' must be a path, got {type_name(image)} {short_repr(image)}"
        )
    check_text(image, f"{where}: 'image'")
    return image

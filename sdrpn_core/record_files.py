"""Records in JSONL and parquet files.

Opening a file reads its texts once, to check them and to build the fingerprint; a record is read
again when it is asked for, so that memory holds one record (JSONL) or one small batch (parquet) at
a time.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdrpn_core.errors import InputError
from sdrpn_core.records import (
    PARQUET_SUFFIX,
    ImageSource,
    Record,
    RecordSource,
    UniqueIds,
    default_id,
    text_digest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from sdrpn_core.geometry import Box

__all__ = ["JsonlRecords", "ParquetRecords"]

REQUIRED = ("image", "question")
OPTIONAL_TEXTS = ("id", "response", "answer", "boxes")

BATCH_ROWS = 16
"""Rows decoded at a time; with pictures of a few megabytes this stays well below 100 MB."""

COORDINATES = 4


class JsonlRecords(RecordSource):
    """One JSON object per line; blank lines are ignored.

    Args:
        path: The file; picture paths are relative to its folder.

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
            raise _unreadable(path, error) from error
        if not self._offsets:
            raise InputError(f"{path}: holds no records")
        self._fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def fingerprint(self) -> str:
        """Hex digest of the file's bytes; the pictures it names are not part of it."""
        return self._fingerprint

    def _record(self, index: int) -> Record:
        # Opened anew each time: a shared handle would share its position with forked workers.
        try:
            with self._path.open("rb") as file:
                file.seek(self._offsets[index])
                return self._parse(file.readline(), index)
        except OSError as error:
            raise _unreadable(self._path, error) from error

    def _parse(self, line: bytes, index: int) -> Record:
        where = f"{self._path}: line {self._lines[index]}"
        try:
            # Some editors put a byte-order mark before the first line.
            row = json.loads(line.decode("utf-8-sig" if index == 0 else "utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: not a JSON object but {_type(row)}")
        for column in REQUIRED:
            if column not in row:
                raise InputError(f"{where}: {column!r} is missing")
        image = row["image"]
        if image is not None and not isinstance(image, str):
            raise InputError(f"{where}: 'image' must be a path, got {_type(image)}")
        return _make_record(row, _beside(self._path, image), index, where)


class ParquetRecords(RecordSource):
    """A parquet file, or all parquet files below a folder in the order of their names.

    Reading in order is cheap. Reading out of order decodes from the start of the record's row
    group, so write pictures in row groups of at most some hundred rows, as Hugging Face datasets
    does.

    Args:
        path: The file or folder; picture paths are relative to the folder of the file they stand
            in.

    Raises:
        InputError: Unreadable file, missing or mistyped column or value, duplicate id; with the row
            (from 0, within its file).
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._groups: list[tuple[Path, int]] = []
        self._starts: list[int] = []
        self._file_starts: dict[Path, int] = {}
        self._length = 0
        self._cursor: _Cursor | None = None
        digest = hashlib.sha256()
        ids = UniqueIds(str(path), "record")
        for file in _parquet_files(path):
            self._add_file(file, ids, digest)
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        if not self._length:
            raise InputError(f"{path}: holds no records")
        self._fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return self._length

    @property
    def fingerprint(self) -> str:
        """Hex digest of texts, file names and file sizes.

        Pictures count by the size of their file alone: hashing gigabytes of them on every start
        would cost minutes.
        """
        return self._fingerprint

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cursor": None}  # open files do not travel to other processes

    def _add_file(self, file: Path, ids: UniqueIds, digest: hashlib._Hash) -> None:
        self._file_starts[file] = self._length
        try:
            parquet = pq.ParquetFile(file, memory_map=True)
            _check_columns(parquet.schema_arrow, file)
            texts = [name for name in _columns(parquet.schema_arrow) if name != "image"]
            first = self._length
            for group in range(parquet.num_row_groups):
                self._groups.append((file, group))
                self._starts.append(self._length)
                self._length += parquet.metadata.row_group(group).num_rows
            rows = (
                row
                for batch in parquet.iter_batches(columns=texts, use_threads=False)
                for row in batch.to_pylist()
            )
            for index, row in enumerate(rows, start=first):
                record = _make_record(row, None, index, self._where(file, index))
                ids.add(record.id, index)
                digest.update(text_digest(record) + b"\n")
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file, error) from error

    def _record(self, index: int) -> Record:
        group = bisect_right(self._starts, index) - 1
        file, number = self._groups[group]
        try:
            if self._cursor is None or not self._cursor.can_reach(index, group):
                self._cursor = _Cursor(file, number, group, self._starts[group])
            row = self._cursor.read(index)
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._cursor = None
            raise _unreadable(file, error) from error
        return _make_record(row, _cell_image(row["image"], file), index, self._where(file, index))

    def _where(self, file: Path, index: int) -> str:
        return f"{file}: row {index - self._file_starts[file]}"


class _Cursor:
    """Reads one row group front to back, a batch at a time."""

    def __init__(self, file: Path, number: int, group: int, start: int) -> None:
        parquet = pq.ParquetFile(file, memory_map=True)
        self._batches: Iterator[pa.RecordBatch] = parquet.iter_batches(
            BATCH_ROWS,
            row_groups=[number],
            columns=_columns(parquet.schema_arrow),
            use_threads=False,  # arrow's thread pool does not survive a fork into loader workers
        )
        self._group = group
        self._batch: pa.RecordBatch | None = None
        self._first = start

    def can_reach(self, index: int, group: int) -> bool:
        return group == self._group and index >= self._first

    def read(self, index: int) -> dict[str, Any]:
        while self._batch is None or index >= self._first + self._batch.num_rows:
            self._first += 0 if self._batch is None else self._batch.num_rows
            self._batch = next(self._batches)
        row: dict[str, Any] = self._batch.slice(index - self._first, 1).to_pylist()[0]
        return row


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(
        file
        for file in path.rglob(f"*{PARQUET_SUFFIX}")
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise InputError(f"{path}: the folder holds no {PARQUET_SUFFIX} files")
    return files


def _columns(schema: pa.Schema) -> list[str]:
    return [name for name in (*REQUIRED, *OPTIONAL_TEXTS) if name in schema.names]


def _check_columns(schema: pa.Schema, file: Path) -> None:
    for column in REQUIRED:
        if column not in schema.names:
            found = ", ".join(schema.names)
            raise InputError(f"{file}: column {column!r} is missing (columns: {found})")
    kind = schema.field("image").type
    names = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
    encoded, path = names.get("bytes"), names.get("path")
    if names:
        fine = (encoded is not None and _is_bytes(encoded)) or (path is not None and _is_text(path))
    else:
        fine = _is_bytes(kind) or _is_text(kind) or pa.types.is_null(kind)
    if not fine:
        raise InputError(
            f"{file}: column 'image' must hold paths, encoded bytes or {{bytes, path}}, not {kind}"
        )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or kind == pa.binary_view()


def _cell_image(cell: Any, file: Path) -> ImageSource | None:
    if isinstance(cell, Mapping):
        encoded, path = cell.get("bytes"), cell.get("path")
        return encoded if isinstance(encoded, bytes) else _beside(file, path)
    return cell if isinstance(cell, bytes) else _beside(file, cell)


def _beside(file: Path, path: str | None) -> Path | None:
    """Resolve a picture's path against the folder of the file that names it."""
    return file.parent / path if path else None


def _make_record(
    row: Mapping[str, Any], image: ImageSource | None, index: int, where: str
) -> Record:
    record_id = _text(row, "id", where, numbers=True)
    return Record(
        id=default_id(index) if record_id is None else record_id,
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
        raise InputError(f"{where}: {column!r} must be text, got {_type(value)}")
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
        or len(value) != COORDINATES
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


def _type(value: Any) -> str:
    return type(value).__name__


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or "it changed"
    return InputError(f"{path}: cannot be read: {reason}")

"""Records in parquet files.

Opening a file reads its texts once, to check them and to build the fingerprint; images are read
with their record, a small batch at a time.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from sdrpn_core.data.parsing import (
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    UniqueIds,
    UsableRows,
    beside,
    make_record,
    text_digest,
    unreadable,
    unusable_record,
)
from sdrpn_core.data.record import PARQUET_SUFFIX, ImageSource, Record, RecordSource
from sdrpn_core.errors import InputError

__all__ = ["ParquetRecords"]

Row: TypeAlias = dict[str, Any]
"""Values by column."""

TEXT_ROWS = 1024
"""Rows whose texts are checked at a time."""

BATCH_ROWS = 16
"""Rows decoded at a time; with images of a few megabytes this stays well below 100 MB."""


class ParquetRecords(RecordSource):
    """A parquet file, or all parquet files below a folder in the order of their names.

    Reading in order is cheap. Reading out of order decodes from the start of the record's row
    group, so write images in row groups of at most some hundred rows, as Hugging Face datasets
    does.

    Args:
        path: The file or folder; image paths are relative to the folder of the file they stand
            in.

    A row that cannot be used, or that repeats an id, becomes a record with a ``problem``; rows are
    counted from 0, within their file.

    Raises:
        InputError: Unreadable file, missing or mistyped column, or no row that can be used.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._groups: list[tuple[Path, int]] = []
        self._starts: list[int] = []
        self._file_starts: dict[Path, int] = {}
        self._length = 0
        self._cursor: _Cursor | None = None
        self._repeated: dict[int, str] = {}
        digest = hashlib.sha256()
        ids = UniqueIds(str(path), "record")
        rows = UsableRows(str(path))
        for file in _parquet_files(path):
            self._add_file(file, ids, rows, digest)
            size = file.stat().st_size
            digest.update(f"{file.name} {size}\n".encode("utf-8", "surrogateescape"))
        rows.check()
        self._fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return self._length

    @property
    def fingerprint(self) -> str:
        """Hex digest of texts, file names and file sizes.

        Images count by the size of their file alone: hashing gigabytes of them on every start
        would cost minutes.
        """
        return self._fingerprint

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cursor": None}  # open files do not travel to other processes

    def _add_file(
        self, file: Path, ids: UniqueIds, rows: UsableRows, digest: hashlib._Hash
    ) -> None:
        self._file_starts[file] = self._length
        try:
            parquet = pq.ParquetFile(file, memory_map=True)
            _check_columns(parquet.schema_arrow, file)
            texts = [name for name in _columns(parquet.schema_arrow) if name != "image"]
            index = self._length
            for group in range(parquet.num_row_groups):
                self._groups.append((file, group))
                self._starts.append(self._length)
                self._length += parquet.metadata.row_group(group).num_rows
            for batch in parquet.iter_batches(TEXT_ROWS, columns=texts, use_threads=False):
                for row in _rows(batch):
                    record = self._make(row, None, index, file)
                    repeated = None if record.problem else ids.add(record.id, index)
                    if repeated is not None:
                        self._repeated[index] = repeated
                    rows.add(record.problem or repeated)
                    digest.update(text_digest(record) + b"\n")
                    index += 1
        except (pa.ArrowException, OSError) as error:
            raise unreadable(file, error) from error
        if index != self._length:
            found, promised = (end - self._file_starts[file] for end in (index, self._length))
            raise InputError(f"{file}: damaged: {found} of {promised} rows can be read")

    def _record(self, index: int) -> Record:
        group = bisect_right(self._starts, index) - 1
        file, number = self._groups[group]
        try:
            if self._cursor is None or not self._cursor.can_reach(index, group):
                self._cursor = _Cursor(file, number, group, self._starts[group])
            row = self._cursor.read(index)
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._cursor = None
            raise unreadable(file, error) from error
        image = None if isinstance(row, str) else _cell_image(row["image"], file)
        record = self._make(row, image, index, file)
        repeated = self._repeated.get(index)
        return record if repeated is None else replace(record, problem=repeated)

    def _make(self, row: Row | str, image: ImageSource | None, index: int, file: Path) -> Record:
        where = self._where(file, index)
        if isinstance(row, str):
            return unusable_record(index, f"{where}: {row}")
        return make_record(row, image, index, where)

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

    def read(self, index: int) -> Row | str:
        while self._batch is None or index >= self._first + self._batch.num_rows:
            self._first += 0 if self._batch is None else self._batch.num_rows
            self._batch = next(self._batches)
        (row,) = _rows(self._batch.slice(index - self._first, 1))
        return row


def _rows(batch: pa.RecordBatch) -> list[Row | str]:
    """The rows of a batch; of one whose values cannot be read, why."""
    try:
        rows: list[Row | str] = batch.to_pylist()
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date without a year
        if batch.num_rows == 1:
            return [f"cannot be read: {error}"]
        return [row for start in range(batch.num_rows) for row in _rows(batch.slice(start, 1))]
    return rows


def _parquet_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(
        file
        for file in path.rglob(f"*{PARQUET_SUFFIX}")
        if not file.is_dir()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: cannot be read: not a regular file")
    if not files:
        raise InputError(f"{path}: the folder holds no {PARQUET_SUFFIX} files")
    return files


def _columns(schema: pa.Schema) -> list[str]:
    return [name for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if name in schema.names]


def _check_columns(schema: pa.Schema, file: Path) -> None:
    for column in REQUIRED_COLUMNS:
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
        return encoded if isinstance(encoded, bytes) else beside(file, path)
    return cell if isinstance(cell, bytes) else beside(file, cell)

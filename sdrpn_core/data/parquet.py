"""Records in parquet files.

Opening a file reads its texts once, to check them and to build the fingerprint; images are read
with their record, a small batch at a time.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdrpn_core.data.parsing import (
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    UniqueIds,
    beside,
    make_record,
    text_digest,
    unreadable,
)
from sdrpn_core.data.record import PARQUET_SUFFIX, ImageSource, Record, RecordSource
from sdrpn_core.errors import InputError

__all__ = ["ParquetRecords"]

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

        Images count by the size of their file alone: hashing gigabytes of them on every start
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
                record = make_record(row, None, index, self._where(file, index))
                ids.add(record.id, index)
                digest.update(text_digest(record) + b"\n")
        except (pa.ArrowException, OSError) as error:
            raise unreadable(file, error) from error

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
        return make_record(row, _cell_image(row["image"], file), index, self._where(file, index))

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

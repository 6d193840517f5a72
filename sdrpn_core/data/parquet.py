"""The rows of parquet files.

Opening a file reads its texts once, to check them and to build the fingerprint; images are read
with their record, a small batch at a time.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdrpn_core.data.arrow_rows import batch_rows, check_schema, text_columns
from sdrpn_core.data.fields import Fields, Row
from sdrpn_core.data.parsing import unreadable
from sdrpn_core.data.record import PARQUET_SUFFIX
from sdrpn_core.data.splits import files_of_split
from sdrpn_core.data.table import Table
from sdrpn_core.errors import InputError

__all__ = ["ParquetTable"]

TEXT_ROWS = 1024
"""Rows whose texts are checked at a time."""

BATCH_ROWS = 16
"""Rows decoded at a time; with images of a few megabytes this stays well below 100 MB."""


class ParquetTable(Table):
    """A parquet file, or the parquet files below a folder in the order of their names.

    Reading in order is cheap. Reading out of order decodes from the start of the row's row group,
    so write images in row groups of at most some hundred rows, as Hugging Face datasets does.

    Args:
        path: The file or folder; image paths are relative to the folder of the file they stand
            in. Rows are counted from 0, within their file.
        split: Which split of the folder; needed if there are several.

    Raises:
        InputError: Unreadable file, or a folder without parquet files or with several splits.
    """

    unit = "record"
    scans_images = False

    def __init__(self, path: Path, split: str | None = None) -> None:
        self.name = str(path)
        self._files = _parquet_files(path, split)
        self._groups: list[tuple[Path, int]] = []
        self._starts: list[int] = []
        self._file_starts: list[int] = []
        self._columns: dict[str, None] = {}
        self._of_thread = _OfThread()
        digest = hashlib.sha256()
        length = 0
        for file in self._files:
            try:
                parquet = pq.ParquetFile(file, memory_map=True)
                self._columns |= dict.fromkeys(parquet.schema_arrow.names)
                self._file_starts.append(length)
                for group in range(parquet.num_row_groups):
                    self._groups.append((file, group))
                    self._starts.append(length)
                    length += parquet.metadata.row_group(group).num_rows
                size = file.stat().st_size
            except (pa.ArrowException, OSError) as error:
                raise unreadable(file, error) from error
            digest.update(f"{file.name} {size}\n".encode("utf-8", "surrogateescape"))
        self._length = length
        self._fingerprint = digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel to other processes.
        return {**self.__dict__, "_of_thread": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._of_thread = _OfThread()

    def scan(self, fields: Fields) -> Iterator[Row | str]:
        """Go through the rows without images, and without columns that hold no field.

        Raises:
            InputError: A file cannot be read, is damaged, or lacks a column.
        """
        ends = [*self._file_starts[1:], self._length]
        for file, start, end in zip(self._files, self._file_starts, ends, strict=True):
            found = 0
            try:
                parquet = pq.ParquetFile(file, memory_map=True)
                check_schema(parquet.schema_arrow, fields, str(file))
                texts = text_columns(parquet.schema_arrow.names, fields)
                for batch in parquet.iter_batches(TEXT_ROWS, columns=texts, use_threads=False):
                    found += batch.num_rows
                    yield from batch_rows(batch)
            except (pa.ArrowException, OSError) as error:
                raise unreadable(file, error) from error
            if found != end - start:
                raise InputError(f"{file}: damaged: {found} of {end - start} rows can be read")

    def row(self, position: int) -> Row | str:
        """Read a row with its images."""
        group = bisect_right(self._starts, position) - 1
        file, number = self._groups[group]
        try:
            cursor = self._of_thread.cursor
            if cursor is None or not cursor.can_reach(position, group):
                cursor = _Cursor(file, number, group, self._starts[group])
                self._of_thread.cursor = cursor
            return cursor.read(position)
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._of_thread.cursor = None
            raise unreadable(file, error) from error

    def where(self, position: int) -> str:
        """File and row in it."""
        number = bisect_right(self._file_starts, position) - 1
        return f"{self._files[number]}: row {position - self._file_starts[number]}"

    def folder(self, position: int) -> Path:
        """That of the row's file."""
        return self._files[bisect_right(self._file_starts, position) - 1].parent

    def columns(self) -> list[str]:
        """Those of all files."""
        return list(self._columns)

    @property
    def fingerprint(self) -> str:
        """Hex digest of file names and file sizes.

        Images count by the size of their file alone: hashing gigabytes of them on every start
        would cost minutes.
        """
        return self._fingerprint


class _Cursor:
    """Reads one row group front to back, a batch at a time."""

    def __init__(self, file: Path, number: int, group: int, start: int) -> None:
        parquet = pq.ParquetFile(file, memory_map=True)
        self._batches: Iterator[pa.RecordBatch] = parquet.iter_batches(
            BATCH_ROWS,
            row_groups=[number],
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
        (row,) = batch_rows(self._batch.slice(index - self._first, 1))
        return row


class _OfThread(threading.local):
    """The cursor of each thread: `answer_stream` draws records in one of its own."""

    cursor: _Cursor | None = None


def _parquet_files(path: Path, split: str | None) -> list[Path]:
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
    return files_of_split(path, files, split)

"""One parquet file of rows: written atomically, checksummed, equal bytes for equal rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdrpn_core.errors import ShardError
from sdrpn_core.shards.format import R, RowFormat
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_core.util.checksums import (
    HashingWriter,
    checksum_path,
    file_checksum,
    read_checksum,
    write_checksum,
)

__all__ = ["ShardFile", "write_shard_file"]

ROW_GROUP_ROWS = 8
"""Rows read to get at one of them: shuffled training reads rows one at a time, and with images
inside a row can be a few hundred kilobytes."""

COMPRESSION_LEVEL = 1
"""Attention maps hardly compress, texts do at any level."""

_TAG_KEY = b"sdrpn"


def write_shard_file(
    folder: Path, shard: int, run: str, rows: Sequence[R], rows_format: RowFormat[R]
) -> None:
    """Write the rows of a shard.

    Args:
        folder: folder of the run.
        shard: number of the shard.
        run: digest of the run's manifest.
        rows: all its rows, in order.
        rows_format: of the run.

    Raises:
        SdrpnError: the file cannot be written; nothing half-written is left.
    """
    table = rows_format.to_table(rows).replace_schema_metadata({_TAG_KEY: _tag(shard, run)})
    # Encoded images do not compress; everything else does a little.
    plain = rows_format.incompressible
    columns = [column for column in _leaf_columns(rows_format.schema) if column not in plain]
    path = folder / rows_format.shard_name(shard)
    try:
        with atomic_write(path) as file:
            writer = HashingWriter(file)
            pq.write_table(
                table,
                writer,
                row_group_size=ROW_GROUP_ROWS,
                compression=dict.fromkeys(columns, "zstd") | dict.fromkeys(plain, "none"),
                compression_level=dict.fromkeys(columns, COMPRESSION_LEVEL),
                use_dictionary=["status"],
                write_statistics=False,
                write_page_checksum=True,
            )
            write_checksum(path, writer.checksum)
    except BaseException:
        if not path.exists():  # a checksum of nothing
            with suppress(OSError):
                checksum_path(path).unlink(missing_ok=True)
        raise


class ShardFile:
    """A shard opened for reading; what it holds is checked as it is read.

    Args:
        folder: folder of the run.
        shard: number of the shard.
        run: digest of the run's manifest.
        rows_format: of the run.
        verify: read the file once and compare it with its checksum.

    Raises:
        ShardError: the file is missing, broken, or belongs elsewhere; says which file and what to
            do.
    """

    def __init__(
        self,
        folder: Path,
        shard: int,
        run: str,
        rows_format: RowFormat[Any],
        *,
        verify: bool = True,
    ) -> None:
        self.path = folder / rows_format.shard_name(shard)
        self._command = rows_format.command
        try:
            self._parquet = pq.ParquetFile(
                self.path, memory_map=True, page_checksum_verification=True
            )
            found = self._parquet.schema_arrow
        except FileNotFoundError as error:
            raise ShardError(f"{self.path} is missing: run `{self._command}` to make it") from error
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from error
        same = found.equals(rows_format.schema)
        if not same or (found.metadata or {}).get(_TAG_KEY) != _tag(shard, run):
            raise ShardError(
                f"{self.path} belongs to another {rows_format.manifest.kind} or shard: delete it, "
                f"then run `{self._command}` again to remake it"
            )
        if verify and file_checksum(self.path) != read_checksum(self.path):
            raise self._broken(ValueError("it is not what its checksum says"))

    def __len__(self) -> int:
        return int(self._parquet.metadata.num_rows)

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Return whole columns as Python lists.

        Raises:
            ShardError: the file is broken.
        """
        try:
            table = self._parquet.read(columns=list(names), use_threads=False)
            return {name: table.column(name).to_pylist() for name in names}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._broken(error) from error

    def row_group(self, position: int) -> tuple[pa.Table, int]:
        """Return the row group that holds row ``position``, and the row's position in it.

        Raises:
            ShardError: the file is broken.
        """
        size = self._parquet.metadata.row_group(0).num_rows  # all but the last have this many
        try:
            # Threads of arrow's pool do not survive a fork into data loader workers.
            table = self._parquet.read_row_group(position // size, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from error
        return table, position % size

    def _broken(self, error: Exception) -> ShardError:
        reason = " ".join(str(error).split())
        return ShardError(
            f"{self.path} is corrupt ({reason}): delete it, then run `{self._command}` again to "
            "remake it"
        )


def _tag(shard: int, run: str) -> bytes:
    return json.dumps({"run": run, "shard": shard}).encode()


def _leaf_columns(schema: pa.Schema) -> list[str]:
    """Return the column paths as parquet spells them, lists and structs resolved."""
    return [leaf for field in schema for leaf in _leaves(field.name, field.type)]


def _leaves(path: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_struct(kind):
        return [leaf for child in kind for leaf in _leaves(f"{path}.{child.name}", child.type)]
    if pa.types.is_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    return [path]

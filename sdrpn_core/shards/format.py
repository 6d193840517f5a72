"""What tells one kind of run from another: its rows, and what its files are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pyarrow as pa

from sdrpn_core.util.checksums import checksum_path
from sdrpn_core.util.run_manifest import ManifestFormat

__all__ = ["Row", "RowFormat"]

_SUFFIX = ".parquet"
_DIGITS = 5


class Row(Protocol):
    """What every row has."""

    @property
    def index(self) -> int:
        """Position of the record in its source."""


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class RowFormat(Generic[R]):
    """One kind of run.

    Attributes:
        manifest: of its folder.
        prefix: of its shards' names, such as ``labels-``.
        command: what makes a missing shard, for messages.
        statuses: an enumeration of texts, ``ok`` among them: what became of a record.
        schema: columns of a shard; among them ``index``, ``id``, ``status`` and ``reason``.
        to_table: turns rows into a table with that schema.
        from_table: makes the row at a position of such a table.
        incompressible: paths of columns that hold what is compressed already.
    """

    manifest: ManifestFormat
    prefix: str
    command: str
    statuses: type[Enum]
    schema: pa.Schema
    to_table: Callable[[Sequence[R]], pa.Table]
    from_table: Callable[[pa.Table, int], R]
    incompressible: tuple[str, ...] = ()

    def shard_name(self, shard: int) -> str:
        """The file name of a shard, such as ``labels-00012.parquet``."""
        return f"{self.prefix}{shard:0{_DIGITS}d}{_SUFFIX}"

    def shard_files(self, shard: int) -> tuple[str, str]:
        """Names of the files of a shard: it, and its checksum."""
        name = self.shard_name(shard)
        return name, checksum_path(Path(name)).name

    def shard_number(self, name: str) -> int | None:
        """The shard that a file name stands for; ``None`` if it is no shard."""
        digits = name.removeprefix(self.prefix).removesuffix(_SUFFIX)
        if not digits.isdecimal() or not digits.isascii() or self.shard_name(int(digits)) != name:
            return None
        return int(digits)

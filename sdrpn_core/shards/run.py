"""A folder of rows, one per record of a source: a manifest and parquet shards.

    manifest.json           what records, and what was done to them (:class:`RunManifest`)
    PREFIX00012.parquet     the rows of records [12 * shard_size, 13 * shard_size)
    PREFIX00012.parquet.sha256
                            its checksum, as `sha256sum --check` reads it

Which records a shard holds depends on their index alone, and its bytes on nothing but its rows. So
any number of processes writes the same folder, and an interrupted run continues with the shards
that are missing.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Generic, overload

import numpy as np

from sdrpn_core.errors import SdrpnError, ShardError
from sdrpn_core.shards.format import R, RowFormat
from sdrpn_core.shards.manifest import RunManifest
from sdrpn_core.shards.parquet_shard import ShardFile, write_shard_file
from sdrpn_core.util.atomic_files import leftovers, remove_leftovers
from sdrpn_core.util.checksums import CHECKSUM_SUFFIX

__all__ = ["RowDataset", "RunSummary", "ShardedRun", "SkippedRecord", "open_folder"]

logger = logging.getLogger(__name__)

OK = "ok"
"""Value of the status of a row that can be used, whatever the run."""
OPEN_SHARDS = 32
"""Shards a dataset keeps open: handles are scarce, and opening one again costs a millisecond."""


@dataclass(frozen=True)
class SkippedRecord:
    """A record that could not be used, and why."""

    index: int
    id: str
    status: Enum
    reason: str


@dataclass(frozen=True)
class RunSummary:
    """What a run holds so far.

    Attributes:
        counts: rows per status, all statuses included.
        skipped: the rows that are not ``OK``, in order.
        missing_shards: shards still to be made; 0 for a complete run.
    """

    counts: Mapping[Any, int]
    skipped: tuple[SkippedRecord, ...]
    missing_shards: int


class ShardedRun(Generic[R]):
    """A folder that rows are written to; :func:`open_folder` prepares it.

    Args:
        folder: of the run.
        manifest: of the run.
        rows_format: its kind.
    """

    def __init__(self, folder: Path, manifest: RunManifest, rows_format: RowFormat[R]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._format = rows_format
        self._run = manifest.digest

    def missing_shards(self, process_index: int = 0, num_processes: int = 1) -> list[int]:
        """Return the shards this process has to make.

        A shard always falls to the same process, whatever the others have finished meanwhile.
        Existing shards are read once against their checksums; a broken one counts as missing and is
        replaced, with a warning. What a killed process left beside a finished shard is removed.

        Args:
            process_index: this process, from 0.
            num_processes: how many share the work.
        """
        stale = leftovers(self.folder)
        missing = []
        for shard in range(process_index, self.manifest.shards, num_processes):
            if not self.is_finished(shard):
                missing.append(shard)
            elif stale.keys() & set(self._format.shard_files(shard)):
                self._tidy(shard)
        return missing

    def is_finished(self, shard: int) -> bool:
        """Whether a shard is there and sound; one that is broken is reported by a warning."""
        path = self.folder / self._format.shard_name(shard)
        if not path.exists():
            return False
        try:
            ShardFile(self.folder, shard, self._run, self._format)
        except ShardError as error:
            logger.warning("recreating %s: %s", path, error)
            return False
        return True

    def write_shard(self, shard: int, rows: Sequence[R]) -> None:
        """Write a shard in one step: afterwards it is there complete, or it is not there.

        Args:
            shard: its number.
            rows: one row per record of the shard, in any order.

        Raises:
            ShardError: there is no such shard, or a record has no row, several, or does not belong.
            SdrpnError: the file cannot be written; nothing half-written is left.
        """
        ordered = sorted(rows, key=lambda row: row.index)
        self._check_rows(shard, ordered)
        try:
            write_shard_file(self.folder, shard, self._run, ordered, self._format)
        except SdrpnError as error:
            if not (_lost_race(error) and self.is_finished(shard)):
                raise
        self._tidy(shard)

    def _tidy(self, shard: int) -> None:
        """Remove what killed processes left of a shard."""
        for name in self._format.shard_files(shard):
            remove_leftovers(self.folder / name)

    def summary(self) -> RunSummary:
        """Count what is there, and list what was skipped.

        Raises:
            ShardError: A shard is corrupt.
        """
        statuses = self._format.statuses
        counts: Counter[Enum] = Counter()
        skipped = []
        missing = 0
        for shard in range(self.manifest.shards):
            if not (self.folder / self._format.shard_name(shard)).exists():
                missing += 1
                continue
            names = ("index", "id", "status", "reason")
            columns = ShardFile(self.folder, shard, self._run, self._format).columns(names)
            for index, record_id, status, reason in zip(*columns.values(), strict=True):
                counts[statuses(status)] += 1
                if status != OK:
                    skipped.append(SkippedRecord(index, record_id, statuses(status), reason))
        return RunSummary({status: counts[status] for status in statuses}, tuple(skipped), missing)

    def _check_rows(self, shard: int, rows: Sequence[R]) -> None:
        counts = Counter(row.index for row in rows)
        expected = Counter(self.manifest.shard_records(shard))
        if counts != expected:
            wrong = min(index for index in counts | expected if counts[index] != expected[index])
            raise ShardError(
                f"shard {shard} holds records {min(expected)} to {max(expected)}, each once: "
                f"record {wrong} has {counts[wrong]} rows, not {expected[wrong]}"
            )


def open_folder(
    folder: Path, manifest: RunManifest, rows_format: RowFormat[Any], *, overwrite: bool = False
) -> None:
    """Start a run in ``folder``, or make sure that the one that is there can be continued.

    Several processes may open the same folder at once, but only one, before the others start, may
    overwrite.

    Args:
        folder: created if missing.
        manifest: what is to be made, and how.
        rows_format: kind of the run.
        overwrite: remove the shards of whatever run of this kind is there and start anew.

    Raises:
        ShardError: the folder holds a run with another manifest (names the fields that differ), or
            shards without a manifest.
        SdrpnError: the folder cannot be made or written to.
    """
    file = rows_format.manifest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            _remove_run(folder, rows_format)
    except OSError as error:
        raise SdrpnError(f"cannot use {folder} for a {file.kind}: {error.strerror}") from error
    if not file.exists(folder):
        if any(rows_format.shard_number(entry.name) is not None for entry in folder.iterdir()):
            raise ShardError(
                f"{folder} holds shards of a {file.kind} without a {file.name}: {file.remedy}"
            )
        try:
            manifest.write(folder)
        except SdrpnError as error:
            if not (_lost_race(error) and file.exists(folder)):
                raise
        remove_leftovers(folder / file.name)
    manifest.require_same(folder)


class RowDataset(Sequence[R]):
    """The usable rows of a run, read one at a time; map-style, as data loaders expect.

    Only rows with status ``ok`` count, in the order of the records. The dataset can be sent to
    worker processes; each opens the shards itself.

    Args:
        folder: folder of the run.
        manifest: the run's manifest.
        rows_format: kind of the run.

    Attributes:
        folder: folder of the run.
        manifest: the run's manifest.

    Raises:
        ShardError: no run, a missing shard, or a corrupt one; names the file and what to do.
    """

    def __init__(self, folder: Path, manifest: RunManifest, rows_format: RowFormat[R]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._format = rows_format
        self._run = self.manifest.digest
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._verified: set[int] = set()
        shards = range(self.manifest.shards)
        # Those that are there are counted: a manifest that was edited may claim any number.
        numbers = (rows_format.shard_number(entry.name) for entry in self.folder.iterdir())
        missing = len(shards) - len({n for n in numbers if n is not None and n in shards})
        if missing:
            raise ShardError(
                f"{self.folder} is incomplete: {missing} of {len(shards)} shards are missing: "
                f"run `{rows_format.command}` again to finish it"
            )
        places = [
            (shard, position)
            for shard in shards
            for position, status in enumerate(self._shard(shard).columns(["status"])["status"])
            if status == OK
        ]
        self._places = np.array(places, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> list[R]: ...
    def __getitem__(self, index: int | slice) -> R | list[R]:
        """Return one row, or a list of them for a slice.

        Raises:
            IndexError: there is no such row.
            ShardError: the row's shard is corrupt.
        """
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        shard, position = (int(number) for number in self._places[index])
        table, offset = self._shard(shard).row_group(position)
        return self._format.from_table(table, offset)

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Return whole columns of all rows as Python lists, without reading the others.

        Args:
            names: of columns.

        Raises:
            ShardError: a shard is corrupt.
        """
        found: dict[str, list[Any]] = {name: [] for name in names}
        for shard in range(self.manifest.shards):
            values = self._shard(shard).columns(names)
            places = self._places[self._places[:, 0] == shard, 1]
            for name, column in found.items():
                column.extend(values[name][place] for place in places)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _shard(self, shard: int) -> ShardFile:
        file = self._open.pop(shard, None)
        if file is None:
            # Once is enough, in whichever process: a file that was opened again is the same file.
            file = ShardFile(
                self.folder,
                shard,
                self._run,
                self._format,
                verify=shard not in self._verified,
            )
            self._verified.add(shard)
        self._open[shard] = file  # the last one is the most recently used
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return file


def _remove_run(folder: Path, rows_format: RowFormat[Any]) -> None:
    """Remove a run's files and nothing else; the manifest last: it says what is left."""
    manifest = rows_format.manifest.name

    def is_of_a_shard(name: str) -> bool:
        return rows_format.shard_number(name.removesuffix(CHECKSUM_SUFFIX)) is not None

    for name, temporaries in leftovers(folder).items():
        if is_of_a_shard(name) or name == manifest:
            for temporary in temporaries:
                temporary.unlink()
    for entry in sorted(folder.iterdir()):
        if is_of_a_shard(entry.name):
            entry.unlink()
    (folder / manifest).unlink(missing_ok=True)


def _lost_race(error: SdrpnError) -> bool:
    """Whether a write failed because another process finished the same file and cleaned up."""
    return isinstance(error.__cause__, FileNotFoundError)

"""The result of the label stage on disk: a folder with a manifest and parquet shards.

    manifest.json           what was labeled and by what (:class:`LabelManifest`)
    labels-00012.parquet    the rows of records [12 * shard_size, 13 * shard_size)
    labels-00012.parquet.sha256
                            its checksum, as `sha256sum --check` reads it

Which records a shard holds depends on their index alone, and its bytes on nothing but its rows. So
any number of processes writes the same folder, and an interrupted run continues with the shards
that are missing.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from sdrpn_core.errors import SdrpnError, ShardError
from sdrpn_core.labeling.manifest import MANIFEST, LabelManifest
from sdrpn_core.labeling.parquet_shard import (
    ShardFile,
    shard_files,
    shard_name,
    shard_number,
    write_shard_file,
)
from sdrpn_core.labeling.row import LabelRow, LabelStatus, portable_image, row_from_table
from sdrpn_core.util.atomic_files import leftovers, remove_leftovers
from sdrpn_core.util.checksums import CHECKSUM_SUFFIX

__all__ = [
    "LabelDataset",
    "LabelManifest",
    "LabelRow",
    "LabelRun",
    "LabelStatus",
    "LabelSummary",
    "SkippedLabel",
    "open_run",
    "portable_image",
]

logger = logging.getLogger(__name__)

OPEN_SHARDS = 32
"""Shards a dataset keeps open: handles are scarce, and opening one again costs a millisecond."""


@dataclass(frozen=True)
class SkippedLabel:
    """A record that has no label, and why."""

    index: int
    id: str
    status: LabelStatus
    reason: str


@dataclass(frozen=True)
class LabelSummary:
    """What a label run holds so far.

    Attributes:
        counts: rows per status, all statuses included.
        skipped: the rows that are not ``OK``, in order.
        missing_shards: shards still to be made; 0 for a complete run.
    """

    counts: dict[LabelStatus, int]
    skipped: tuple[SkippedLabel, ...]
    missing_shards: int


class LabelRun:
    """A folder that label rows are written to; get one from :func:`open_run`."""

    def __init__(self, folder: Path, manifest: LabelManifest) -> None:
        self.folder = folder
        self.manifest = manifest
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
            elif stale.keys() & set(shard_files(shard)):
                self._tidy(shard)
        return missing

    def is_finished(self, shard: int) -> bool:
        """Whether a shard is there and sound; one that is broken is reported by a warning."""
        path = self.folder / shard_name(shard)
        if not path.exists():
            return False
        try:
            ShardFile(self.folder, shard, self._run)
        except ShardError as error:
            logger.warning("%s is made again: %s", path, error)
            return False
        return True

    def write_shard(self, shard: int, rows: Sequence[LabelRow]) -> None:
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
            write_shard_file(self.folder, shard, self._run, ordered)
        except SdrpnError as error:
            if not (_lost_race(error) and self.is_finished(shard)):
                raise
        self._tidy(shard)

    def _tidy(self, shard: int) -> None:
        """Remove what killed processes left of a shard."""
        for name in shard_files(shard):
            remove_leftovers(self.folder / name)

    def summary(self) -> LabelSummary:
        """Count what is there, and list what was skipped.

        Raises:
            ShardError: A shard is corrupt.
        """
        counts: Counter[LabelStatus] = Counter()
        skipped = []
        missing = 0
        for shard in range(self.manifest.shards):
            if not (self.folder / shard_name(shard)).exists():
                missing += 1
                continue
            names = ("index", "id", "status", "reason")
            columns = ShardFile(self.folder, shard, self._run).columns(names)
            for index, record_id, status, reason in zip(*columns.values(), strict=True):
                counts[LabelStatus(status)] += 1
                if status != LabelStatus.OK:
                    skipped.append(SkippedLabel(index, record_id, LabelStatus(status), reason))
        return LabelSummary(
            {status: counts[status] for status in LabelStatus}, tuple(skipped), missing
        )

    def _check_rows(self, shard: int, rows: Sequence[LabelRow]) -> None:
        counts = Counter(row.index for row in rows)
        expected = Counter(self.manifest.shard_records(shard))
        if counts != expected:
            wrong = min(index for index in counts | expected if counts[index] != expected[index])
            raise ShardError(
                f"shard {shard} holds records {min(expected)} to {max(expected)}, each once: "
                f"record {wrong} has {counts[wrong]} rows, not {expected[wrong]}"
            )


def open_run(folder: str | Path, manifest: LabelManifest, *, overwrite: bool = False) -> LabelRun:
    """Start a label run in ``folder``, or continue the one that is there.

    Several processes may open the same folder at once, but only one, before the others start, may
    overwrite.

    Args:
        folder: created if missing.
        manifest: what is to be labeled, and how.
        overwrite: remove the shards of whatever run is there and start anew.

    Raises:
        ShardError: the folder holds a run with another manifest (names the fields that differ), or
            shards without a manifest.
        SdrpnError: the folder cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            _remove_run(folder)
    except OSError as error:
        raise SdrpnError(f"cannot use {folder} for labels: {error.strerror}") from error
    if not MANIFEST.exists(folder):
        if any(shard_number(entry.name) is not None for entry in folder.iterdir()):
            raise ShardError(
                f"{folder} holds label shards without a {MANIFEST.name}: {MANIFEST.remedy}"
            )
        try:
            manifest.write(folder)
        except SdrpnError as error:
            if not (_lost_race(error) and MANIFEST.exists(folder)):
                raise
        remove_leftovers(folder / MANIFEST.name)
    manifest.require_same(folder)
    return LabelRun(folder, manifest)


class LabelDataset(Sequence[LabelRow]):
    """The labeled rows of a run, read one at a time; map-style, as data loaders expect.

    Only rows with status ``OK`` count, in the order of the records. The dataset can be sent to
    worker processes; each opens the shards itself.

    Args:
        folder: folder of the run.

    Attributes:
        manifest: the run's manifest.

    Raises:
        ShardError: no run, a missing shard, or a corrupt one; names the file and what to do.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = LabelManifest.read(self.folder)
        self._run = self.manifest.digest
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._verified: set[int] = set()
        shards = range(self.manifest.shards)
        missing = [shard for shard in shards if not (self.folder / shard_name(shard)).exists()]
        if missing:
            raise ShardError(
                f"{self.folder} is incomplete: {len(missing)} of {len(shards)} shards are missing: "
                "run `sdrpn label` again to finish it"
            )
        places = [
            (shard, position)
            for shard in shards
            for position, status in enumerate(self._shard(shard).columns(["status"])["status"])
            if status == LabelStatus.OK
        ]
        self._places = np.array(places, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> LabelRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[LabelRow]: ...
    def __getitem__(self, index: int | slice) -> LabelRow | list[LabelRow]:
        """Return one row, or a list of them for a slice.

        Raises:
            IndexError: there is no such row.
            ShardError: the row's shard is corrupt.
        """
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        shard, position = (int(number) for number in self._places[index])
        table, offset = self._shard(shard).row_group(position)
        return row_from_table(table, offset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _shard(self, shard: int) -> ShardFile:
        file = self._open.pop(shard, None)
        if file is None:
            # Once is enough, in whichever process: a file that was opened again is the same file.
            file = ShardFile(self.folder, shard, self._run, verify=shard not in self._verified)
            self._verified.add(shard)
        self._open[shard] = file  # the last one is the most recently used
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return file


def _remove_run(folder: Path) -> None:
    """Remove a run's files and nothing else; the manifest last: it says what is left."""
    for name, temporaries in leftovers(folder).items():
        if _is_of_a_shard(name) or name == MANIFEST.name:
            for temporary in temporaries:
                temporary.unlink()
    for entry in sorted(folder.iterdir()):
        if _is_of_a_shard(entry.name):
            entry.unlink()
    (folder / MANIFEST.name).unlink(missing_ok=True)


def _is_of_a_shard(name: str) -> bool:
    """Whether this is the name of a shard, or of its checksum."""
    return shard_number(name.removesuffix(CHECKSUM_SUFFIX)) is not None


def _lost_race(error: SdrpnError) -> bool:
    """Whether a write failed because another process finished the same file and cleaned up."""
    return isinstance(error.__cause__, FileNotFoundError)

"""Answers at several budgets of visual tokens on disk: a manifest and shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sdrpn_core.errors import ShardError
from sdrpn_core.gate.budget_labels import AnswerLadder
from sdrpn_core.shards.format import RowFormat
from sdrpn_core.shards.manifest import RunManifest
from sdrpn_core.shards.run import RowDataset, ShardedRun, open_folder
from sdrpn_core.util.run_manifest import ManifestFormat
from sdrpn_core.utility.ladder_row import (
    SCHEMA,
    LadderRow,
    LadderStatus,
    row_from_table,
    rows_to_table,
)

__all__ = ["LADDERS", "LadderDataset", "LadderManifest", "LadderRun", "open_run"]

MANIFEST = ManifestFormat(
    name="ladder.json",
    kind="ladder run",
    error=ShardError,
    version=2,  # 1: one correct answer
    uncompared=("dataset",),  # the same data may be spelled as another path
)

LADDERS = RowFormat(
    manifest=MANIFEST,
    prefix="ladder-",
    command="sdrpn ladder",
    statuses=LadderStatus,
    schema=SCHEMA,
    to_table=rows_to_table,
    from_table=row_from_table,
    incompressible=("image.bytes",),
)


@dataclass(frozen=True)
class LadderManifest(RunManifest):
    """Everything that decides the content of a ladder run; the provenance names the budgets."""

    format: ClassVar[ManifestFormat] = MANIFEST


class LadderRun(ShardedRun[LadderRow]):
    """A folder that answers are written to; get one from :func:`open_run`."""

    def __init__(self, folder: Path, manifest: LadderManifest) -> None:
        super().__init__(folder, manifest, LADDERS)


def open_run(folder: str | Path, manifest: LadderManifest, *, overwrite: bool = False) -> LadderRun:
    """Start a ladder run in ``folder``, or continue the one that is there.

    Args:
        folder: created if missing.
        manifest: what is to be answered, and how.
        overwrite: remove the shards of whatever run is there and start anew.

    Raises:
        ShardError: the folder holds a run with another manifest (names the fields that differ), or
            shards without a manifest.
        SdrpnError: the folder cannot be made or written to.
    """
    open_folder(Path(folder), manifest, LADDERS, overwrite=overwrite)
    return LadderRun(Path(folder), manifest)


class LadderDataset(RowDataset[LadderRow]):
    """The answered questions of a run, read one at a time; map-style, as data loaders expect.

    Args:
        folder: folder of the run.

    Raises:
        ShardError: no run, a missing shard, or a corrupt one; names the file and what to do.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(Path(folder), LadderManifest.read(Path(folder)), LADDERS)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The budgets of visual tokens that every question was answered at, ascending."""
        return tuple(self.manifest.provenance["resolutions"])

    def ladders(self) -> list[AnswerLadder]:
        """The answers to all questions, in order; no image is read.

        Raises:
            ShardError: a shard is corrupt.
        """
        columns = self.columns(["resolutions", "answers", "truths"])
        return [AnswerLadder(*values) for values in zip(*columns.values(), strict=True)]

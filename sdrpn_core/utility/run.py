"""The result of the utility stage on disk: a manifest and shards of judged records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sdrpn_core.errors import ShardError
from sdrpn_core.shards.format import RowFormat
from sdrpn_core.shards.manifest import RunManifest
from sdrpn_core.shards.run import RowDataset, ShardedRun, open_folder
from sdrpn_core.util.run_manifest import ManifestFormat
from sdrpn_core.utility.row import SCHEMA, UtilityRow, UtilityStatus, row_from_table, rows_to_table

__all__ = ["UTILITIES", "UtilityDataset", "UtilityManifest", "UtilityRun", "open_run"]

MANIFEST = ManifestFormat(
    name="utility.json",
    kind="utility run",
    error=ShardError,
    version=1,
    uncompared=("dataset",),  # the same data may be spelled as another path
)

UTILITIES = RowFormat(
    manifest=MANIFEST,
    prefix="utility-",
    command="sdrpn utility",
    statuses=UtilityStatus,
    schema=SCHEMA,
    to_table=rows_to_table,
    from_table=row_from_table,
    incompressible=("image.bytes",),
)


@dataclass(frozen=True)
class UtilityManifest(RunManifest):
    """Everything that decides the content of a utility run; the provenance names the RPN."""

    format: ClassVar[ManifestFormat] = MANIFEST


class UtilityRun(ShardedRun[UtilityRow]):
    """A folder that judged records are written to; get one from :func:`open_run`."""

    def __init__(self, folder: Path, manifest: UtilityManifest) -> None:
        super().__init__(folder, manifest, UTILITIES)


def open_run(
    folder: str | Path, manifest: UtilityManifest, *, overwrite: bool = False
) -> UtilityRun:
    """Start a utility run in ``folder``, or continue the one that is there.

    Args:
        folder: created if missing.
        manifest: what is to be judged, and how.
        overwrite: remove the shards of whatever run is there and start anew.

    Raises:
        ShardError: the folder holds a run with another manifest (names the fields that differ), or
            shards without a manifest.
        SdrpnError: the folder cannot be made or written to.
    """
    open_folder(Path(folder), manifest, UTILITIES, overwrite=overwrite)
    return UtilityRun(Path(folder), manifest)


class UtilityDataset(RowDataset[UtilityRow]):
    """The judged records of a run, read one at a time; map-style, as data loaders expect.

    Args:
        folder: folder of the run.

    Raises:
        ShardError: no run, a missing shard, or a corrupt one; names the file and what to do.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(Path(folder), UtilityManifest.read(Path(folder)), UTILITIES)

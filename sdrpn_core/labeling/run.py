"""The result of the label stage on disk: a folder with a manifest and shards of label rows."""

from __future__ import annotations

from pathlib import Path

from sdrpn_core.labeling.manifest import MANIFEST, LabelManifest
from sdrpn_core.labeling.row import SCHEMA, LabelRow, LabelStatus, row_from_table, rows_to_table
from sdrpn_core.shards.format import RowFormat
from sdrpn_core.shards.run import RowDataset, ShardedRun, open_folder

__all__ = ["LABELS", "LabelDataset", "LabelRun", "open_run"]

LABELS = RowFormat(
    manifest=MANIFEST,
    prefix="labels-",
    command="sdrpn label",
    statuses=LabelStatus,
    schema=SCHEMA,
    to_table=rows_to_table,
    from_table=row_from_table,
    incompressible=("image.bytes",),
)


class LabelRun(ShardedRun[LabelRow]):
    """A folder that label rows are written to; get one from :func:`open_run`."""

    def __init__(self, folder: Path, manifest: LabelManifest) -> None:
        super().__init__(folder, manifest, LABELS)


def open_run(folder: str | Path, manifest: LabelManifest, *, overwrite: bool = False) -> LabelRun:
    """Start a label run in ``folder``, or continue the one that is there.

    Args:
        folder: created if missing.
        manifest: what is to be labeled, and how.
        overwrite: remove the shards of whatever run is there and start anew.

    Raises:
        ShardError: the folder holds a run with another manifest (names the fields that differ), or
            shards without a manifest.
        SdrpnError: the folder cannot be made or written to.
    """
    open_folder(Path(folder), manifest, LABELS, overwrite=overwrite)
    return LabelRun(Path(folder), manifest)


class LabelDataset(RowDataset[LabelRow]):
    """The labeled rows of a run, read one at a time; map-style, as data loaders expect.

    Args:
        folder: folder of the run.

    Raises:
        ShardError: no run, a missing shard, or a corrupt one; names the file and what to do.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(Path(folder), LabelManifest.read(Path(folder)), LABELS)

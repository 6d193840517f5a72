"""The label stage: questions about images in, shards of attention maps out.

Each record is answered (by the response it comes with, or by the backbone itself), and while the
response is read or written, the attention of the recipe's heads to the image is recorded. What is
stored are the maps, not the labels: thresholds can be changed without labeling again.

Processes share the work shard by shard. A shard's rows depend on its records, the run's settings
and the batch size alone, so any number of processes, with any number of interruptions, writes the
same bytes. Another batch size moves the last bits of the maps, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record, RecordSource
from sdrpn_core.labeling.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_SHARD_SIZE,
)
from sdrpn_core.labeling.manifest import LabelManifest
from sdrpn_core.labeling.record_labeler import RecordLabeler
from sdrpn_core.labeling.run import LabelRun, open_run
from sdrpn_core.shards.making import Advance, make_missing_shards, make_rows
from sdrpn_core.taps.attention_tap import attention_implementation
from sdrpn_core.util.package_versions import package_versions
from sdrpn_core.util.whole_numbers import check_counts

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.labels.recipe import LabelRecipe
    from sdrpn_core.shards.run import RunSummary

__all__ = ["ShardMaker", "label", "make_shards"]


def label(
    backbone: Backbone,
    records: str | Path | Sequence[Record],
    folder: str | Path,
    *,
    recipe: LabelRecipe | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    shard_size: int = DEFAULT_SHARD_SIZE,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    progress: bool = True,
) -> RunSummary:
    """Label records, or continue where an interrupted run stopped.

    Under ``accelerate launch`` every process calls this with the same arguments and gets the same
    summary.

    Args:
        backbone: the model.
        records: a source, or what :func:`~sdrpn_core.data.read.read_records` takes.
        folder: where the shards go; holds one run.
        recipe: which heads are read; default: the first of the backbone's preset.
        batch_size: records that go through the model together. Moves the last bits of the maps, by
            padding, so it is free to change when a run is continued.
        shard_size: records per shard, which is what a kill can lose.
        max_new_tokens: max new tokens per generated response.
        max_pixels: images with more pixels count as unreadable.
        overwrite: remove the run that is in ``folder``.
        progress: show a bar on the main process.

    Returns:
        Rows per status, and the id and reason of every record that was skipped.

    Raises:
        ConfigError: no recipe, one that names layers or heads which the backbone lacks, or a
            backbone that was loaded in part.
        InputError: the source cannot be read; a record that cannot be used is skipped.
        ShardError: ``folder`` holds another run.
        SdrpnError: a shard cannot be written (full disk); the finished ones stay.
    """
    source = records if isinstance(records, RecordSource) else read_records(records)
    maker = ShardMaker(
        backbone,
        source,
        recipe or backbone.preset.recipe(),
        batch_size,
        max_new_tokens,
        max_pixels,
    )
    return make_shards(
        maker, folder, maker.manifest(shard_size), overwrite=overwrite, progress=progress
    )


def make_shards(
    maker: ShardMaker,
    folder: str | Path,
    manifest: LabelManifest,
    *,
    overwrite: bool,
    progress: bool,
) -> RunSummary:
    """Make the missing shards of a run, in this process or those that ``accelerate`` started.

    Args:
        maker: makes them, one by one.
        folder: where they go.
        manifest: of the run, as ``maker`` made it.
        overwrite: remove the run that is in ``folder``.
        progress: show a bar on the main process.

    Returns:
        What the folder holds, in every process.

    Raises:
        ShardError: ``folder`` holds another run.
        SdrpnError: a shard cannot be written (full disk); the finished ones stay.
    """
    return make_missing_shards(
        lambda anew: open_run(folder, manifest, overwrite=anew),
        maker.make,
        maker.backbone.device,
        overwrite=overwrite,
        progress=progress,
        verb="label",
    )


@dataclass(frozen=True, eq=False)
class ShardMaker:
    """Makes shards of a run, in whatever process holds it.

    Attributes:
        backbone: the model.
        source: all records of the run.
        recipe: which heads are read.
        batch_size: records that go through the model together.
        max_new_tokens: max new tokens per generated response.
        max_pixels: images with more pixels count as unreadable.

    Raises:
        ConfigError: a size is not positive, the recipe names layers or heads which the backbone
            lacks or a number of visual tokens where that is fixed, or the backbone was loaded in
            part.
    """

    backbone: Backbone
    source: RecordSource
    recipe: LabelRecipe
    batch_size: int = DEFAULT_BATCH_SIZE
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        check_counts(
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            max_pixels=self.max_pixels,
        )
        self.backbone.check_whole("labeling")
        self.recipe.check_fits(self.backbone.n_layers, self.backbone.n_heads)
        self.backbone.check_dynamic_resolution("visual_tokens", self.recipe.visual_tokens)

    def manifest(self, shard_size: int, *, dataset: str | None = None) -> LabelManifest:
        """What decides the content of the run.

        Args:
            shard_size: records per shard.
            dataset: what the data is called; default: the source's name.

        Raises:
            ConfigError: the shard size is not positive.
        """
        check_counts(shard_size=shard_size)
        provenance: dict[str, Any] = {
            "backbone": backbone_identity(self.backbone, branch=0),
            "recipe": self.recipe.to_dict(),
            "compute": {
                "max_new_tokens": self.max_new_tokens,
                "max_pixels": self.max_pixels,
                "dtype": str(self.backbone.model.dtype).removeprefix("torch."),
                "device": self.backbone.device.type,
                "attn_implementation": attention_implementation(self.backbone.text_config),
            },
            "versions": package_versions(),
        }
        return LabelManifest(
            records=len(self.source),
            fingerprint=self.source.fingerprint,
            shard_size=shard_size,
            dataset=self.source.name if dataset is None else dataset,
            provenance=provenance,
        )

    def make(self, run: LabelRun, shard: int, advance: Advance | None = None) -> None:
        """Make one shard and write it.

        Args:
            run: where to.
            shard: its number.
            advance: of a progress bar.

        Raises:
            SdrpnError: it cannot be written.
        """
        labeler = RecordLabeler(self.backbone, self.recipe, self.max_new_tokens, self.max_pixels)
        rows = make_rows(
            run.manifest.shard_records(shard),
            lambda index: labeler.prepare(index, self.source[index]),
            labeler.rows,
            self.batch_size,
            advance,
        )
        run.write_shard(shard, rows)

"""The label stage: questions about images in, shards of attention maps out.

Each record is answered (by the response it comes with, or by the backbone itself), and while the
response is read or written, the attention of the recipe's heads to the image is recorded. What is
stored are the maps, not the labels: thresholds can be changed without labeling again.

Processes share the work shard by shard. A shard's rows depend on its records, the run's settings
and the batch size alone, so any number of processes, with any number of interruptions, writes the
same bytes. Another batch size moves the last bits of the maps, no more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.backbone.question import Question
from sdrpn_core.data.images import open_image
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record, RecordSource, only_image, validate_record
from sdrpn_core.errors import AttentionError, ImageError, InputError, SdrpnError
from sdrpn_core.labeling.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_SHARD_SIZE,
)
from sdrpn_core.labeling.manifest import LabelManifest
from sdrpn_core.labeling.row import LabelRow, LabelStatus, portable_image
from sdrpn_core.labeling.run import LabelRun, LabelSummary, open_run
from sdrpn_core.shards.making import Advance, make_missing_shards, make_rows
from sdrpn_core.taps.attention_tap import attention_implementation
from sdrpn_core.taps.response_attention import (
    ResponseAttention,
    read_given_responses,
    read_own_responses,
    recipe_heads,
    recipe_maps,
)
from sdrpn_core.util.isolate_failures import ITEM_ERRORS, isolate_failures
from sdrpn_core.util.package_versions import package_versions
from sdrpn_core.util.whole_numbers import check_counts

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.labels.recipe import LabelRecipe

__all__ = ["ShardMaker", "label", "label_records", "make_shards"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _PreparedRecord:
    """A record that can be asked: its place in the source and what goes into the backbone."""

    index: int
    record: Record
    question: Question
    ids: list[int]


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
) -> LabelSummary:
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
) -> LabelSummary:
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
            lacks, or the backbone was loaded in part.
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
        preprocessor = Preprocessor(self.backbone)
        rows = make_rows(
            run.manifest.shard_records(shard),
            lambda index: self._prepared(index, preprocessor),
            lambda batch: _label_prepared(self.backbone, batch, self.recipe, self.max_new_tokens),
            self.batch_size,
            advance,
        )
        run.write_shard(shard, rows)

    def _prepared(self, index: int, preprocessor: Preprocessor) -> _PreparedRecord | LabelRow:
        record = self.source[index]
        return _prepare(self.backbone, index, record, self.recipe, self.max_pixels, preprocessor)


def label_records(
    backbone: Backbone,
    records: Sequence[tuple[int, Record]],
    recipe: LabelRecipe,
    *,
    max_new_tokens: int,
    max_pixels: int = MAX_PIXELS,
) -> list[LabelRow]:
    """Label one batch; nothing in a record makes it fail.

    Args:
        backbone: the model.
        records: each with its index in the source.
        recipe: which heads are read.
        max_new_tokens: max new tokens per generated response.
        max_pixels: images with more pixels count as unreadable.

    Returns:
        One row per record, those that were skipped with a reason.
    """
    preprocessor = Preprocessor(backbone)
    prepared = [
        _prepare(backbone, index, record, recipe, max_pixels, preprocessor)
        for index, record in records
    ]
    return _label_prepared(backbone, prepared, recipe, max_new_tokens)


def _label_prepared(
    backbone: Backbone,
    batch: Sequence[_PreparedRecord | LabelRow],
    recipe: LabelRecipe,
    max_new_tokens: int,
) -> list[LabelRow]:
    """Label what can be asked; what is a row already, that of a skipped record, stays."""
    rows = [one for one in batch if isinstance(one, LabelRow)]
    given: list[_PreparedRecord] = []
    unanswered: list[_PreparedRecord] = []
    for one in batch:
        if isinstance(one, _PreparedRecord):
            (unanswered if one.record.response is None else given).append(one)
    for group in filter(None, (given, unanswered)):
        rows += _label_group(backbone, group, recipe, max_new_tokens)
    return rows


def _prepare(
    backbone: Backbone,
    index: int,
    record: Record,
    recipe: LabelRecipe,
    max_pixels: int,
    preprocessor: Preprocessor,
) -> _PreparedRecord | LabelRow:
    """Check a record, open its image, tokenize and preprocess it; a row if it cannot be used."""
    try:
        return _open(backbone, index, record, recipe, max_pixels, preprocessor)
    except ImageError as error:
        return LabelRow.skip(index, record, LabelStatus.UNREADABLE, str(error))
    except InputError as error:
        return LabelRow.skip(index, record, LabelStatus.INVALID, str(error))


def _open(
    backbone: Backbone,
    index: int,
    record: Record,
    recipe: LabelRecipe,
    max_pixels: int,
    preprocessor: Preprocessor,
) -> _PreparedRecord:
    validate_record(record)
    source = only_image(record, "labeling")
    text = record.question
    response_ids: tuple[int, ...] = ()
    if record.response is None:
        text = recipe.labeling_question(record.question)
    else:
        response_ids = backbone.tokenize_response(record.response)
    image = open_image(source, max_pixels=max_pixels)
    question = preprocessor.prepared(Question(text, (image,), response_ids))
    if question.inputs:
        # The image itself is not looked at again, and may be large.
        question = replace(question, images=())
    return _PreparedRecord(index, record, question, backbone.tokenize(text, 1))


def _label_group(
    backbone: Backbone, group: Sequence[_PreparedRecord], recipe: LabelRecipe, max_new_tokens: int
) -> list[LabelRow]:
    """Label records that go through the model together; those that fail are skipped."""

    def read(part: Sequence[_PreparedRecord]) -> list[tuple[Prompt, ResponseAttention]]:
        prompts = backbone.encode_ids([a.ids for a in part], [a.question for a in part])
        readings = _read(backbone, part, prompts, recipe, max_new_tokens)
        return list(zip(prompts, readings, strict=True))

    rows: list[LabelRow] = []
    for part, result in isolate_failures(group, read, ITEM_ERRORS):
        if isinstance(result, SdrpnError):
            is_nan = isinstance(result, AttentionError)
            status = LabelStatus.NAN_ATTENTION if is_nan else LabelStatus.INVALID
            rows.append(LabelRow.skip(part[0].index, part[0].record, status, str(result)))
        else:
            rows += [
                _row(backbone, prepared, prompt, reading, recipe)
                for prepared, (prompt, reading) in zip(part, result, strict=True)
            ]
    return rows


def _read(
    backbone: Backbone,
    group: Sequence[_PreparedRecord],
    prompts: Sequence[Prompt],
    recipe: LabelRecipe,
    max_new_tokens: int,
) -> list[ResponseAttention]:
    heads = recipe_heads(recipe)
    if group[0].record.response is None:
        return read_own_responses(
            backbone,
            prompts,
            heads,
            max_new_tokens=max_new_tokens,
            max_rows=recipe.response_rows,
        )
    backbone.check_context(max(map(len, prompts)))
    return read_given_responses(backbone, prompts, heads, max_rows=recipe.response_rows)


def _row(
    backbone: Backbone,
    prepared: _PreparedRecord,
    prompt: Prompt,
    reading: ResponseAttention,
    recipe: LabelRecipe,
) -> LabelRow:
    record = prepared.record
    if not reading.n_rows:
        reason = "the response has no token whose attention could be read"
        return LabelRow.skip(prepared.index, record, LabelStatus.NO_RESPONSE, reason)
    grounding, sink = recipe_maps(recipe, reading.maps[0])
    response = record.response
    if response is None:
        response = backbone.tokenizer.decode(reading.response_ids, skip_special_tokens=True).strip()
    return LabelRow(
        index=prepared.index,
        id=record.id,
        question=record.question,
        image=portable_image(record.images[0]),
        response=response,
        response_ids=reading.response_ids,
        grounding=grounding,
        sink=sink if recipe.sink else None,
        geometry=prompt.images[0].geometry,
    )

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sdrpn_core.backbone.adapter import Question
from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.data.images import MAX_PIXELS, open_image
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record, RecordSource, validate_record
from sdrpn_core.distributed.processes import processes, progress_bar, wait_for_everyone
from sdrpn_core.errors import AttentionError, ConfigError, ImageError, InputError
from sdrpn_core.labeling.manifest import DEFAULT_SHARD_SIZE, LabelManifest
from sdrpn_core.labeling.row import LabelRow, LabelStatus, portable_image
from sdrpn_core.labeling.run import LabelRun, LabelSummary, open_run
from sdrpn_core.taps.response_attention import (
    ResponseAttention,
    read_given_responses,
    read_own_responses,
    recipe_heads,
    recipe_maps,
)

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.labels.recipe import LabelRecipe

__all__ = ["ShardMaker", "label", "label_records"]

logger = logging.getLogger(__name__)

Advance: TypeAlias = Callable[[int], object]
"""Called after each batch with the number of its records."""

DEFAULT_BATCH_SIZE = 8
DEFAULT_MAX_NEW_TOKENS = 64

#: Packages whose versions decide the bytes of a run.
_VERSIONED = ("sdrpn", "torch", "transformers")


@dataclass(frozen=True)
class _Asked:
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
    _check_positive(shard_size=shard_size)
    source = records if isinstance(records, RecordSource) else read_records(records)
    maker = ShardMaker(
        backbone,
        source,
        recipe or backbone.preset.recipe(),
        batch_size,
        max_new_tokens,
        max_pixels,
    )
    manifest = maker.manifest(shard_size)
    state = processes(backbone.device)
    if overwrite and state.is_main_process:
        open_run(folder, manifest, overwrite=True)
    wait_for_everyone(state)
    run = open_run(folder, manifest)
    missing = run.missing_shards(state.process_index, state.num_processes)
    total = sum(len(manifest.shard_records(shard)) for shard in missing)
    with progress_bar(progress, total=total, desc="label", unit="record") as bar:
        for shard in missing:
            maker.make(run, shard, advance=bar.update)
    wait_for_everyone(state)
    return run.summary()


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
        _check_positive(
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            max_pixels=self.max_pixels,
        )
        self.backbone.check_whole("labeling")
        self.recipe.check_fits(self.backbone.n_layers, self.backbone.n_heads)

    def manifest(self, shard_size: int) -> LabelManifest:
        """What decides the content of the run.

        Args:
            shard_size: records per shard.
        """
        provenance: dict[str, Any] = {
            "backbone": backbone_identity(self.backbone, branch=0),
            "recipe": self.recipe.to_dict(),
            "compute": {
                "max_new_tokens": self.max_new_tokens,
                "max_pixels": self.max_pixels,
                "dtype": str(self.backbone.model.dtype).removeprefix("torch."),
                "device": self.backbone.device.type,
                "attn_implementation": self.backbone.text_config._attn_implementation,
            },
            "versions": {name: version(name) for name in _VERSIONED},
        }
        return LabelManifest(
            records=len(self.source),
            fingerprint=self.source.fingerprint,
            shard_size=shard_size,
            dataset=self.source.name,
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
        indices = run.manifest.shard_records(shard)
        rows: list[LabelRow] = []
        for start in range(0, len(indices), self.batch_size):
            places = indices[start : start + self.batch_size]
            batch = [(index, self.source[index]) for index in places]
            rows += label_records(
                self.backbone,
                batch,
                self.recipe,
                max_new_tokens=self.max_new_tokens,
                max_pixels=self.max_pixels,
            )
            if advance is not None:
                advance(len(batch))
        run.write_shard(shard, rows)


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
    rows: list[LabelRow] = []
    given: list[_Asked] = []
    own: list[_Asked] = []
    for index, record in records:
        try:
            asked = _ask(backbone, index, record, recipe, max_pixels)
        except ImageError as error:
            rows.append(LabelRow.skip(index, record, LabelStatus.UNREADABLE, str(error)))
        except InputError as error:
            rows.append(LabelRow.skip(index, record, LabelStatus.INVALID, str(error)))
        else:
            (own if record.response is None else given).append(asked)
    for group in filter(None, (given, own)):
        rows += _label_group(backbone, group, recipe, max_new_tokens)
    return rows


def _ask(
    backbone: Backbone, index: int, record: Record, recipe: LabelRecipe, max_pixels: int
) -> _Asked:
    """Check a record, open its image and tokenize it.

    Raises:
        ImageError: the image cannot be used.
        InputError: the question cannot.
    """
    validate_record(record)
    if record.image is None:  # refused above, which type checkers cannot see
        raise InputError(f"record {record.id!r}: the question comes without an image")
    text = record.question
    response_ids: tuple[int, ...] = ()
    if record.response is None:
        text = recipe.asked(record.question)
    else:
        response_ids = backbone.tokenize_response(record.response)
    image = open_image(record.image, max_pixels=max_pixels)
    question = Question(text, (image,), response_ids)
    return _Asked(index, record, question, backbone.tokenize(text, 1))


def _label_group(
    backbone: Backbone, group: Sequence[_Asked], recipe: LabelRecipe, max_new_tokens: int
) -> list[LabelRow]:
    """Label records that go through the model together; if one spoils the batch, one by one."""
    try:
        prompts = backbone.encode_ids([a.ids for a in group], [a.question for a in group])
        readings = _read(backbone, group, prompts, recipe, max_new_tokens)
    except (AttentionError, InputError) as error:
        if len(group) > 1:
            return [
                row
                for asked in group
                for row in _label_group(backbone, [asked], recipe, max_new_tokens)
            ]
        nan = isinstance(error, AttentionError)
        status = LabelStatus.NAN_ATTENTION if nan else LabelStatus.INVALID
        return [LabelRow.skip(group[0].index, group[0].record, status, str(error))]
    return [
        _row(backbone, asked, prompt, reading, recipe)
        for asked, prompt, reading in zip(group, prompts, readings, strict=True)
    ]


def _read(
    backbone: Backbone,
    group: Sequence[_Asked],
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
    asked: _Asked,
    prompt: Prompt,
    reading: ResponseAttention,
    recipe: LabelRecipe,
) -> LabelRow:
    record = asked.record
    if not reading.n_rows:
        reason = "the response has no token whose attention could be read"
        return LabelRow.skip(asked.index, record, LabelStatus.NO_RESPONSE, reason)
    grounding, sink = recipe_maps(recipe, reading.maps[0])
    response = record.response
    if response is None:
        response = backbone.tokenizer.decode(reading.response_ids, skip_special_tokens=True).strip()
    return LabelRow(
        index=asked.index,
        id=record.id,
        question=record.question,
        image=portable_image(record.image),
        response=response,
        response_ids=reading.response_ids,
        grounding=grounding,
        sink=sink if recipe.sink else None,
        geometry=prompt.images[0].geometry,
    )


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be 1 or more, not {value}")

"""The ladder stage: every question is answered at several budgets of visual tokens.

The published rule makes gate labels of the answers, see :mod:`sdrpn_core.gate.budget_labels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record, RecordSource
from sdrpn_core.errors import ConfigError, ImageError, SdrpnError
from sdrpn_core.gate.budget_labels import N_ORACLES, normalized_answer
from sdrpn_core.shards.image_cell import portable_image
from sdrpn_core.shards.making import make_missing_shards
from sdrpn_core.util.whole_numbers import check_counts
from sdrpn_core.utility.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_SHARD_SIZE,
)
from sdrpn_core.utility.ladder_row import LadderRow, LadderStatus
from sdrpn_core.utility.ladder_run import LadderManifest, open_run
from sdrpn_core.utility.record_maker import OpenedRecord, RecordMaker

if TYPE_CHECKING:
    from sdrpn_core.answering.results import Answer
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.question import ImageInput, Question
    from sdrpn_core.shards.run import RunSummary

__all__ = ["LadderMaker", "answer_ladders"]


def answer_ladders(
    backbone: Backbone,
    records: str | Path | Sequence[Record],
    folder: str | Path,
    resolutions: Sequence[int],
    *,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    batch_size: int = DEFAULT_BATCH_SIZE,
    shard_size: int = DEFAULT_SHARD_SIZE,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    progress: bool = True,
) -> RunSummary:
    """Answer records at several budgets, or continue where an interrupted run stopped.

    Under ``accelerate launch`` every process calls this with the same arguments and gets the same
    summary.

    Args:
        backbone: the model, of a family of dynamic resolution.
        records: a source, or what :func:`~sdrpn_core.data.read.read_records` takes.
        folder: where the shards go; holds one run.
        resolutions: budgets of visual tokens per image, ascending, at least 3: the two highest
            serve as oracles.
        max_new_tokens: max new tokens per answer.
        batch_size: records that go through the model together. Moves the last bits of logits, by
            padding, so it is free to change when a run is continued.
        shard_size: records per shard, which is what a kill can lose.
        max_pixels: images with more pixels count as unreadable.
        overwrite: remove the run that is in ``folder``.
        progress: show a bar on the main process.

    Returns:
        Rows per status, and the id and reason of every record that was skipped.

    Raises:
        ConfigError: a family of fixed resolution, budgets that are no ladder, an impossible size,
            or a backbone that was loaded in part.
        InputError: the source cannot be read; a record that cannot be used is skipped.
        ShardError: ``folder`` holds another run.
        SdrpnError: a shard cannot be written (full disk); the finished ones stay.
    """
    source = records if isinstance(records, RecordSource) else read_records(records)
    maker = LadderMaker(
        backbone,
        source,
        tuple(resolutions),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        max_pixels=max_pixels,
    )
    manifest = LadderManifest(**maker.manifest_fields(shard_size))
    return make_missing_shards(
        lambda anew: open_run(folder, manifest, overwrite=anew),
        maker.make,
        backbone.device,
        overwrite=overwrite,
        progress=progress,
        verb="answer",
    )


@dataclass(frozen=True, eq=False)
class LadderMaker(RecordMaker[LadderRow]):
    """Makes shards of questions that are answered at several budgets.

    Adds to the attributes of ``RecordMaker``:

    Attributes:
        resolutions: budgets of visual tokens per image, ascending.
        max_new_tokens: max new tokens per answer.

    Raises:
        ConfigError: see :func:`answer_ladders`.
    """

    purpose = "answering at several budgets"

    resolutions: tuple[int, ...]
    _: KW_ONLY
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(max_new_tokens=self.max_new_tokens)
        budgets = list(self.resolutions)
        if len(budgets) <= N_ORACLES or budgets != sorted(set(budgets)) or budgets[0] < 1:
            raise ConfigError(
                f"a ladder takes {N_ORACLES + 1} or more ascending budgets of visual tokens, not "
                f"{budgets}"
            )
        self.backbone.check_dynamic_resolution("a ladder's highest budget", budgets[-1])

    @property
    def looks(self) -> Sequence[int | None]:
        """The budgets."""
        return self.resolutions

    def facts(self) -> dict[str, Any]:
        """The budgets, and how long an answer may be."""
        return {"resolutions": self.resolutions, "max_new_tokens": self.max_new_tokens}

    def skipped(self, index: int, record: Record, error: SdrpnError) -> LadderRow:
        """The row of a record that cannot be answered."""
        unreadable = isinstance(error, ImageError)
        status = LadderStatus.UNREADABLE if unreadable else LadderStatus.INVALID
        return LadderRow.skip(index, record, status, str(error))

    def rows(self, opened: Sequence[OpenedRecord]) -> list[LadderRow]:
        """Answer a batch, budget by budget."""
        asked: list[OpenedRecord] = []
        rows: list[LadderRow] = []
        for one in opened:
            if _truths(one.record):
                asked.append(one)
            else:
                rows.append(self._unanswered(one))
        answers: list[list[Answer]] = [[] for _ in asked]
        for rung in range(len(self.resolutions)):
            # An image that fills no larger budget looks the same from there on.
            new = [
                place
                for place, one in enumerate(asked)
                if rung == 0 or not _look_alike(*one.questions[rung - 1 : rung + 1])
            ]
            found = answer_batch(
                self.backbone,
                [asked[place].questions[rung] for place in new],
                max_new_tokens=self.max_new_tokens,
            )
            given = dict(zip(new, found, strict=True))
            for place, own in enumerate(answers):
                own.append(given[place] if place in given else own[-1])
        return rows + [self._row(*pair) for pair in zip(asked, answers, strict=True)]

    def _unanswered(self, opened: OpenedRecord) -> LadderRow:
        reason = "the record has no answer to compare with"
        return LadderRow.skip(opened.index, opened.record, LadderStatus.NO_ANSWER, reason)

    def _row(self, opened: OpenedRecord, answers: Sequence[Answer]) -> LadderRow:
        record = opened.record
        return LadderRow(
            index=opened.index,
            id=record.id,
            question=record.question,
            image=portable_image(record.images[0]),
            resolutions=self.resolutions,
            visual_tokens=tuple(answer.n_visual_tokens for answer in answers),
            answers=tuple(answer.text for answer in answers),
            truths=_truths(record),
        )


def _truths(record: Record) -> tuple[str, ...]:
    """The accepted answers that can be told: an empty one would be found in every response."""
    return tuple(answer for answer in record.answers if normalized_answer(answer))


def _look_alike(one: Question, other: Question) -> bool:
    """Whether the encoder gets the same of two looks at the same images."""
    if not (one.inputs and other.inputs):
        return False  # an image that was refused; encoding says why
    return all(_equal(*pair) for pair in zip(one.inputs, other.inputs, strict=True))


def _equal(one: ImageInput, other: ImageInput) -> bool:
    return one.geometry == other.geometry and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )

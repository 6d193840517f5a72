"""How records become rows: each is prepared by itself, and a batch is read together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.backbone.question import Question
from sdrpn_core.data.images import open_image
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.record import Record, only_image, validate_record
from sdrpn_core.errors import AttentionError, ImageError, InputError, SdrpnError
from sdrpn_core.labeling.row import LabelRow, LabelStatus
from sdrpn_core.shards.image_cell import portable_image
from sdrpn_core.taps.response_attention import (
    ResponseAttention,
    read_given_responses,
    read_own_responses,
    recipe_heads,
    recipe_maps,
)
from sdrpn_core.util.isolate_failures import ITEM_ERRORS, isolate_failures

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.labels.recipe import LabelRecipe

__all__ = ["PreparedRecord", "RecordLabeler"]


@dataclass(frozen=True)
class PreparedRecord:
    """A record that can be asked.

    Attributes:
        index: its place in the source.
        record: the record.
        question: what is asked; the image is ready for the encoder.
        ids: token ids of the prompt.
    """

    index: int
    record: Record
    question: Question
    ids: list[int]


@dataclass(frozen=True, eq=False)
class RecordLabeler:
    """Labels records; nothing in a record makes it fail.

    Attributes:
        backbone: the model.
        recipe: which heads are read.
        max_new_tokens: max new tokens per generated response.
        max_pixels: images with more pixels count as unreadable.
    """

    backbone: Backbone
    recipe: LabelRecipe
    max_new_tokens: int
    max_pixels: int = MAX_PIXELS

    def prepare(self, index: int, record: Record) -> PreparedRecord | LabelRow:
        """Check a record, open its image, tokenize and preprocess it; a row if it cannot be used.

        Args:
            index: of the record in its source.
            record: the record.
        """
        try:
            return self._opened(index, record)
        except ImageError as error:
            return LabelRow.skip(index, record, LabelStatus.UNREADABLE, str(error))
        except InputError as error:
            return LabelRow.skip(index, record, LabelStatus.INVALID, str(error))

    def rows(self, batch: Sequence[PreparedRecord | LabelRow]) -> list[LabelRow]:
        """Label what can be asked; what is a row already, that of a skipped record, stays.

        Args:
            batch: what :meth:`prepare` returned, any number.

        Returns:
            One row per record, in any order; those that were skipped with a reason.
        """
        rows = [one for one in batch if isinstance(one, LabelRow)]
        given: list[PreparedRecord] = []
        unanswered: list[PreparedRecord] = []
        for one in batch:
            if isinstance(one, PreparedRecord):
                (unanswered if one.record.response is None else given).append(one)
        for group in filter(None, (given, unanswered)):
            rows += self._label(group)
        return rows

    @cached_property
    def _preprocessor(self) -> Preprocessor:
        return Preprocessor(self.backbone)

    def _opened(self, index: int, record: Record) -> PreparedRecord:
        validate_record(record)
        source = only_image(record, "labeling")
        text = record.question
        response_ids: tuple[int, ...] = ()
        if record.response is None:
            text = self.recipe.labeling_question(record.question)
        else:
            response_ids = self.backbone.tokenize_response(record.response)
        image = open_image(source, max_pixels=self.max_pixels)
        n_tokens = self.recipe.visual_tokens
        question = self._preprocessor.prepared(
            Question(text, (image,), response_ids, first_look_tokens=n_tokens)
        )
        if question.inputs:
            # The image itself is not looked at again, and may be large.
            question = replace(question, images=())
        return PreparedRecord(index, record, question, self.backbone.tokenize(text, 1))

    def _label(self, group: Sequence[PreparedRecord]) -> list[LabelRow]:
        """Label records that go through the model together; those that fail are skipped."""
        rows: list[LabelRow] = []
        for part, result in isolate_failures(group, self._read, ITEM_ERRORS):
            if isinstance(result, SdrpnError):
                is_nan = isinstance(result, AttentionError)
                status = LabelStatus.NAN_ATTENTION if is_nan else LabelStatus.INVALID
                rows.append(LabelRow.skip(part[0].index, part[0].record, status, str(result)))
            else:
                rows += [
                    self._row(prepared, prompt, reading)
                    for prepared, (prompt, reading) in zip(part, result, strict=True)
                ]
        return rows

    def _read(self, group: Sequence[PreparedRecord]) -> list[tuple[Prompt, ResponseAttention]]:
        """The prompts, and the attention of responses: all given, or all the backbone's own."""
        prompts = self.backbone.encode_ids([a.ids for a in group], [a.question for a in group])
        heads, max_rows = recipe_heads(self.recipe), self.recipe.response_rows
        if group[0].record.response is None:
            readings = read_own_responses(
                self.backbone,
                prompts,
                heads,
                max_new_tokens=self.max_new_tokens,
                max_rows=max_rows,
            )
        else:
            self.backbone.check_context(max(map(len, prompts)))
            readings = read_given_responses(self.backbone, prompts, heads, max_rows=max_rows)
        return list(zip(prompts, readings, strict=True))

    def _row(
        self, prepared: PreparedRecord, prompt: Prompt, reading: ResponseAttention
    ) -> LabelRow:
        record = prepared.record
        if not reading.n_rows:
            reason = "the response has no token whose attention could be read"
            return LabelRow.skip(prepared.index, record, LabelStatus.NO_RESPONSE, reason)
        grounding, sink = recipe_maps(self.recipe, reading.maps[0])
        response = record.response
        if response is None:
            tokenizer = self.backbone.tokenizer
            response = tokenizer.decode(reading.response_ids, skip_special_tokens=True).strip()
        return LabelRow(
            index=prepared.index,
            id=record.id,
            question=record.question,
            image=portable_image(record.images[0]),
            response=response,
            response_ids=reading.response_ids,
            grounding=grounding,
            sink=sink if self.recipe.sink else None,
            geometry=prompt.images[0].geometry,
        )

"""Calibration samples: questions whose boxes are known, and the responses that are measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sdrpn_core.backbone.question import Question
from sdrpn_core.data.images import open_image
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.record import only_image, validate_record
from sdrpn_core.errors import InputError
from sdrpn_core.head_finding.measures import Cells
from sdrpn_core.runtime.generate_options import batches_without_padding
from sdrpn_core.runtime.generation import generate, prompt_block

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.data.record import Record, RecordSource
    from sdrpn_core.grid.geometry import Geometry
    from sdrpn_core.labels.recipe import LabelRecipe

_STAGE = "finding heads"

#: One half of the samples chooses heads, the other confirms them.
N_HALVES = 2


@dataclass(frozen=True, eq=False)
class Target:
    """Where a sample's boxes lie.

    Attributes:
        geometry: of the image's visual tokens.
        inside: ``(h * w,)`` true in the cells that a box overlaps; some are, not all.
    """

    geometry: Geometry
    inside: Cells

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the visual tokens."""
        return self.geometry.grid


@dataclass(frozen=True, eq=False)
class CalibrationSample:
    """A record that is measured. Its image is opened anew when it is needed.

    Attributes:
        index: of the record in its source.
        half: which half of the samples it belongs to.
        question: of the record.
        given: the record's own response; ``None``: the backbone answered.
        response_ids: the tokens whose attention counts, one or more.
        target: where it should go.
    """

    index: int
    half: int
    question: str
    given: str | None
    response_ids: tuple[int, ...]
    target: Target


@dataclass(frozen=True)
class SkippedRecord:
    """A record that cannot be measured, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class _OpenRecord:
    """A record with its image open, and its question as token ids."""

    index: int
    record: Record
    question: Question
    ids: list[int]
    target: Target


def check_records(records: RecordSource) -> None:
    """Find out before anything slow whether the records are of a kind that can be used.

    Raises:
        InputError: none has a question, an image and boxes; says what the first one lacks.
    """
    reason = ""
    for record in records:
        try:
            _check_record(record)
        except InputError as error:
            reason = reason or str(error)
        else:
            return
    raise InputError(
        f"{records.name}: no record can be used: finding heads needs to know where in each image "
        f"the answer lies; the first: {reason}"
    )


class Calibration:
    """The samples of one run; collected in a first pass, repeated in later ones.

    Args:
        backbone: the model.
        records: with boxes; those without are skipped.
        recipe: says how the backbone is asked for its generated responses, and at which
            resolution it looks.
        batch_size: records that go through the model together.
        max_new_tokens: max new tokens per generated response.
        max_pixels: records whose image has more pixels are skipped.

    Attributes:
        samples: those of the first pass so far.
        skipped: records that it could not use.
    """

    def __init__(
        self,
        backbone: Backbone,
        records: RecordSource,
        recipe: LabelRecipe,
        *,
        batch_size: int,
        max_new_tokens: int,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.backbone = backbone
        self.records = records
        self.recipe = recipe
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.max_pixels = max_pixels
        self.samples: list[CalibrationSample] = []
        self.skipped: list[SkippedRecord] = []

    def collect(self) -> Iterator[tuple[list[CalibrationSample], list[Prompt]]]:
        """First pass: batches of samples and their prompts, responses included.

        Records without a response are answered by the backbone, as in labeling. A batch may be
        smaller than ``batch_size``, or empty.
        """
        for start in range(0, len(self.records), self.batch_size):
            opened = []
            for index in range(start, min(start + self.batch_size, len(self.records))):
                record = self.records[index]
                try:
                    opened.append(self._open(index, record))
                except InputError as error:
                    self.skipped.append(SkippedRecord(record.id, str(error)))
            yield self._answer(opened)

    def repeat(self) -> Iterator[tuple[list[CalibrationSample], list[Prompt]]]:
        """A later pass: the same samples and responses again, in batches."""
        for start in range(0, len(self.samples), self.batch_size):
            batch = self.samples[start : start + self.batch_size]
            questions = []
            for sample in batch:
                record = self.records[sample.index]
                image = self._image(record)
                questions.append(self._question(record, image, sample.response_ids))
            yield batch, self.backbone.encode(questions)

    def exchange_questions(
        self, half: int, seed: int
    ) -> Iterator[tuple[list[CalibrationSample], list[Prompt]]]:
        """A later pass: images of one half, each asked the question of another sample of that half.

        The backbone answers anew, given responses come with their question. Samples are left out
        where no other one asks anything else, and where the other question cannot be asked of the
        image or is answered by nothing.

        Args:
            half: whose samples.
            seed: of the order in which questions are passed on.
        """
        pairs = _exchanged([s for s in self.samples if s.half == half], seed)
        for start in range(0, len(pairs), self.batch_size):
            batch, opened = [], []
            for sample, other in pairs[start : start + self.batch_size]:
                record = replace(
                    self.records[sample.index], question=other.question, response=other.given
                )
                # Only the other question's length can be at fault: the rest has been measured.
                with suppress(InputError):
                    opened.append(self._open(sample.index, record))
                    batch.append(sample)
            prompts = self._prompts(opened)
            readable = [i for i, prompt in enumerate(prompts) if not self._skip_reason(prompt)]
            yield [batch[i] for i in readable], [prompts[i] for i in readable]

    def _open(self, index: int, record: Record) -> _OpenRecord:
        """Open a record's image, find its boxes, and make sure that it can be asked.

        Raises:
            InputError: it has no boxes, the image cannot be read, the backbone cannot take it or
                the texts, or the boxes tell no cells apart.
        """
        _check_record(record)
        image = self._image(record)
        n_tokens = self.recipe.visual_tokens
        geometry = self.backbone.looking_with(n_tokens).preprocess(image).geometry
        target = _target(record, geometry)
        ids = self.backbone.tokenize(self._text(record), 1)
        response: tuple[int, ...] = ()
        n_response = self.max_new_tokens
        if record.response is not None:
            response = self.backbone.tokenize_response(record.response)
            n_response = len(response)
        # One of the ids stands for the image.
        self.backbone.check_context(len(ids) - 1 + target.inside.size + n_response)
        question = self._question(record, image, response)
        return _OpenRecord(index, record, question, ids, target)

    def _image(self, record: Record) -> Image.Image:
        return open_image(only_image(record, _STAGE), max_pixels=self.max_pixels)

    def _question(
        self, record: Record, image: Image.Image, response_ids: tuple[int, ...]
    ) -> Question:
        n_tokens = self.recipe.visual_tokens
        return Question(self._text(record), (image,), response_ids, first_look_tokens=n_tokens)

    def _text(self, record: Record) -> str:
        return (
            record.question
            if record.response is not None
            else self.recipe.labeling_question(record.question)
        )

    def _prompts(self, opened: Sequence[_OpenRecord]) -> list[Prompt]:
        """Prompts with responses: those given, and for the other records the backbone's own."""
        prompts = self.backbone.encode_ids(
            [one.ids for one in opened], [one.question for one in opened]
        )
        unanswered = [i for i, one in enumerate(opened) if one.record.response is None]
        responses = self._generated_responses([prompts[i] for i in unanswered])
        for i, ids in zip(unanswered, responses, strict=True):
            prompts[i] = prompts[i].with_response(ids)
        return prompts

    def _answer(
        self, opened: Sequence[_OpenRecord]
    ) -> tuple[list[CalibrationSample], list[Prompt]]:
        samples, answered = [], []
        for one, prompt in zip(opened, self._prompts(opened), strict=True):
            if reason := self._skip_reason(prompt):
                self.skipped.append(SkippedRecord(one.record.id, reason))
                continue
            samples.append(
                CalibrationSample(
                    index=one.index,
                    half=len(self.samples) % N_HALVES,
                    question=one.record.question,
                    given=one.record.response,
                    response_ids=prompt.response_ids,
                    target=one.target,
                )
            )
            self.samples.append(samples[-1])
            answered.append(prompt)
        return samples, answered

    def _skip_reason(self, prompt: Prompt) -> str:
        """Why the response cannot be read; empty if it can."""
        if not prompt.response_length:
            return "the response has no token whose attention could be read"
        if self.backbone.image_token_id in prompt.response_ids:
            # Only a generated one can: a given one would have been refused.
            return "the model's response holds the placeholder of an image"
        return ""

    def _generated_responses(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        """Greedy responses, without a last token that the length limit kept from being fed back."""
        together = [list(range(len(prompts)))] if prompts else []
        lengths = [(len(prompt),) for prompt in prompts]
        found: dict[int, tuple[int, ...]] = {}
        for batch in batches_without_padding(self.backbone, lengths) or together:
            block = prompt_block(self.backbone, [prompts[index] for index in batch])
            responses = generate(self.backbone, block, max_new_tokens=self.max_new_tokens)
            found.update(zip(batch, responses, strict=True))
        return [found[index][: self.max_new_tokens - 1] for index in range(len(prompts))]


def _exchanged(
    samples: Sequence[CalibrationSample], seed: int
) -> list[tuple[CalibrationSample, CalibrationSample]]:
    """Each sample with the next one, in a random circle, that asks and answers otherwise.

    Samples with a given response exchange questions among themselves, and so do the others.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    circle = [samples[place] for place in order]
    pairs = []
    for place, sample in enumerate(circle):
        for step in range(1, len(circle)):
            other = circle[(place + step) % len(circle)]
            alike = (other.given is None) == (sample.given is None)
            if alike and other.question != sample.question:
                pairs.append((sample, other))
                break
    return pairs


def _check_record(record: Record) -> None:
    validate_record(record)
    only_image(record, _STAGE)
    if not record.boxes:
        raise InputError(f"record {record.id!r}: no boxes")


def _target(record: Record, geometry: Geometry) -> Target:
    boxes = record.boxes or ()
    inside = np.any([geometry.cells_of(box) for box in boxes], axis=0)
    width, height = geometry.source_size
    listed = ", ".join(str(list(box)) for box in boxes)
    if not inside.any():
        raise InputError(f"box {listed} lies outside the image of {width} x {height} pixels")
    if inside.all():
        raise InputError(f"box {listed} touches every cell of the image's grid")
    return Target(geometry, inside.ravel())

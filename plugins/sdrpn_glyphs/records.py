"""The splits as records, for all stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from sdrpn_core.data.record import Record
from sdrpn_glyphs.dataset import make_question
from sdrpn_glyphs.questions import ANSWERS, answered
from sdrpn_glyphs.scenes import render

#: Number of records of a split if none is given; the stream itself is endless.
DEFAULT_COUNT = 1000


class GlyphRecords(Sequence[Record]):
    """``n`` records of a split; each image is rendered when its record is read."""

    def __init__(self, split: str, n: int | None, seed: int) -> None:
        self.split = split
        self.n = DEFAULT_COUNT if n is None else n
        self.seed = seed

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        """Make one record, or those of a slice."""
        positions = range(self.n)[index]
        if isinstance(positions, range):
            return [self[position] for position in positions]
        question = make_question(self.split, positions, self.seed)
        return Record(
            id=f"{self.split}/{self.seed}/{positions}",
            images=(render(question.scene),),
            question=question.text,
            answers=(question.answer,),
            boxes=tuple(one.box for one in question.objects),
            category=question.topic,
        )


def train(n: int | None, seed: int) -> GlyphRecords:
    """Questions of all kinds about objects of all sizes, for labels and training."""
    return GlyphRecords("glyphs/train", n, seed)


def visible(n: int | None, seed: int) -> GlyphRecords:
    """Details that the whole image shows."""
    return GlyphRecords("glyphs/visible", n, seed)


def small(n: int | None, seed: int) -> GlyphRecords:
    """Details that take a crop."""
    return GlyphRecords("glyphs/small", n, seed)


def mixed(n: int | None, seed: int) -> GlyphRecords:
    """Questions of all kinds about objects of all sizes."""
    return GlyphRecords("glyphs/mixed", n, seed)


def pairs(n: int | None, seed: int) -> GlyphRecords:
    """Comparisons of two small details far apart."""
    return GlyphRecords("glyphs/pairs", n, seed)


def absent(n: int | None, seed: int) -> GlyphRecords:
    """Questions about an object that is not there."""
    return GlyphRecords("glyphs/absent", n, seed)


def is_correct(prediction: str, record: Record) -> bool:
    """Whether a prediction gives the right answer, whatever else it says."""
    expected = right_answer(record)
    return expected is not None and answered(prediction, record.category or "") == expected


def right_answer(record: Record) -> str | None:
    """What :func:`~sdrpn_glyphs.questions.answered` gives for a right response.

    ``None`` where the record's category is no topic, or its answer none of the topic's.
    """
    if record.answer is None or record.category is None or record.category not in ANSWERS:
        return None
    return answered(record.answer, record.category)

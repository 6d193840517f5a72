"""The splits as records, for the label, train and benchmark stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from sdrpn_core.data.record import Record

from .dataset import make_item
from .questions import answered_color

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
        item = make_item(self.split, positions, self.seed)
        return Record(
            id=item.id,
            images=(item.image,),
            question=item.question,
            answers=(item.answer,),
            boxes=item.boxes,
        )


def train(n: int | None, seed: int) -> GlyphRecords:
    """Small objects, for pseudo-labels and RPN training."""
    return GlyphRecords("glyphs/train", n, seed)


def small(n: int | None, seed: int) -> GlyphRecords:
    """Test images whose dots vanish at model resolution."""
    return GlyphRecords("glyphs/small", n, seed)


def visible(n: int | None, seed: int) -> GlyphRecords:
    """Test images whose dots stay visible."""
    return GlyphRecords("glyphs/visible", n, seed)


def mixed(n: int | None, seed: int) -> GlyphRecords:
    """Test images of both kinds, and all that lies between: some questions need a crop."""
    return GlyphRecords("glyphs/mixed", n, seed)


def mixed_train(n: int | None, seed: int) -> GlyphRecords:
    """The same, for the training of a gate and for choosing its threshold."""
    return GlyphRecords("glyphs/mixed_train", n, seed)


def is_correct(prediction: str, record: Record) -> bool:
    """Whether a prediction names the color of the dot, whatever else it says."""
    return record.answer is not None and answered_color(prediction) == answered_color(record.answer)

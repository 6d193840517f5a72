"""What the runs of this room share: records of one image, in batches, one row for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from sdrpn_core.backbone.identity import backbone_identity
from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.backbone.question import Question
from sdrpn_core.data.images import open_image
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.record import Record, RecordSource, only_image, validate_record
from sdrpn_core.errors import InputError, SdrpnError
from sdrpn_core.shards.format import R
from sdrpn_core.shards.making import Advance, make_rows
from sdrpn_core.taps.attention_tap import attention_implementation
from sdrpn_core.util.isolate_failures import ITEM_ERRORS, isolate_failures
from sdrpn_core.util.package_versions import package_versions
from sdrpn_core.util.whole_numbers import check_counts
from sdrpn_core.utility.defaults import DEFAULT_BATCH_SIZE

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.shards.run import ShardedRun

__all__ = ["OpenedRecord", "RecordMaker"]


@dataclass(frozen=True)
class OpenedRecord:
    """A record that can be asked.

    Attributes:
        index: its place in the source.
        record: the record.
        questions: its question with the opened image, one for each of :attr:`RecordMaker.looks`;
            the images are ready for the encoder.
    """

    index: int
    record: Record
    questions: tuple[Question, ...]


@dataclass(frozen=True, eq=False)
class RecordMaker(ABC, Generic[R]):
    """Makes the rows of records, in whatever process holds it; no record makes it fail.

    Attributes:
        backbone: the model.
        source: all records of the run.
        batch_size: records that go through the model together.
        max_pixels: images with more pixels count as unreadable.
        purpose: what is done to the records, for messages.

    Raises:
        ConfigError: a size is not positive, or the backbone was loaded in part.
    """

    purpose: ClassVar[str]

    backbone: Backbone
    source: RecordSource
    _: KW_ONLY
    batch_size: int = DEFAULT_BATCH_SIZE
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        check_counts(batch_size=self.batch_size, max_pixels=self.max_pixels)
        self.backbone.check_whole(self.purpose)

    @property
    def looks(self) -> Sequence[int | None]:
        """Visual tokens per image, for each time a question is asked; ``None``: the usual ones."""
        return (None,)

    @abstractmethod
    def rows(self, opened: Sequence[OpenedRecord]) -> list[R]:
        """Make the rows of a batch.

        Raises:
            InputError, AttentionError: a record is at fault; it is tried again by itself.
        """

    @abstractmethod
    def skipped(self, index: int, record: Record, error: SdrpnError) -> R:
        """The row of a record that cannot be used."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What decides the rows besides backbone and records, as plain JSON values."""

    def manifest_fields(self, shard_size: int) -> dict[str, Any]:
        """Fields of the run's manifest.

        Args:
            shard_size: records per shard.

        Raises:
            ConfigError: the shard size is not positive.
        """
        check_counts(shard_size=shard_size)
        provenance = {
            "backbone": backbone_identity(self.backbone, branch=0),
            **self.facts(),
            "compute": {
                "max_pixels": self.max_pixels,
                "dtype": str(self.backbone.model.dtype).removeprefix("torch."),
                "device": self.backbone.device.type,
                "attn_implementation": attention_implementation(self.backbone.text_config),
            },
            "versions": package_versions(),
        }
        return {
            "records": len(self.source),
            "fingerprint": self.source.fingerprint,
            "shard_size": shard_size,
            "dataset": self.source.name,
            "provenance": provenance,
        }

    def make(self, run: ShardedRun[R], shard: int, advance: Advance | None = None) -> None:
        """Make one shard and write it.

        Args:
            run: where to.
            shard: its number.
            advance: of a progress bar.

        Raises:
            SdrpnError: it cannot be written.
        """
        indices = run.manifest.shard_records(shard)
        rows = make_rows(indices, self._opened, self._rows, self.batch_size, advance)
        run.write_shard(shard, rows)

    @cached_property
    def _preprocessor(self) -> Preprocessor:
        return Preprocessor(self.backbone)

    def _opened(self, index: int) -> OpenedRecord | R:
        """Check a record, open its image and prepare it; a row if it cannot be used."""
        record = self.source[index]
        try:
            validate_record(record)
            image = open_image(only_image(record, self.purpose), max_pixels=self.max_pixels)
            # What cannot be asked fails here, and not its batch.
            self.backbone.tokenize(record.question, 1)
        except InputError as error:
            return self.skipped(index, record, error)
        question = Question(record.question, (image,))
        looks = (question.with_first_look(n_tokens) for n_tokens in self.looks)
        return OpenedRecord(index, record, tuple(map(self._preprocessor.prepared, looks)))

    def _rows(self, batch: Sequence[OpenedRecord | R]) -> list[R]:
        """Make the rows of what can be asked; what is a row already stays."""
        rows: list[R] = []
        opened: list[OpenedRecord] = []
        for one in batch:
            if isinstance(one, OpenedRecord):
                opened.append(one)
            else:
                rows.append(one)
        if opened:
            for part, result in isolate_failures(opened, self.rows, ITEM_ERRORS):
                if isinstance(result, SdrpnError):
                    rows.append(self.skipped(part[0].index, part[0].record, result))
                else:
                    rows += result
        return rows

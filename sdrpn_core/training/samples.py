"""What is trained on, one image at a time."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from sdrpn_core.data.images import open_image
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.record import only_image, validate_record
from sdrpn_core.errors import AttentionError, InputError, ShardError

if TYPE_CHECKING:
    from sdrpn_core.backbone.preprocessing import Preprocessor
    from sdrpn_core.backbone.question import ImageInput
    from sdrpn_core.data.record import RecordSource
    from sdrpn_core.labeling.run import LabelDataset
    from sdrpn_core.labels.pseudo import PseudoLabeler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """One image to train on.

    Attributes:
        id: of the record.
        question: what is asked.
        image: what the vision encoder gets, on the CPU.
        labels: ``(h, w)``, -100 where a cell is ignored: int64 in {0, 1} or float32 in [0, 1];
            ``None`` if they are made while training.
        response: whose attention the labels are made from; ``None`` where ``labels`` are given.
    """

    id: str
    question: str
    image: ImageInput
    labels: npt.NDArray[Any] | None = None
    response: str | None = None


@dataclass(frozen=True, eq=False)
class CachedSample:
    """What is left to train on once the frozen layers have run.

    Attributes:
        id: of the record.
        hidden: ``(length, hidden)`` hidden states that leave decoder layer B - 1, up to the query,
            which is the last of them.
        positions: ``(length,)`` or ``(axes, length)`` integer position ids.
        start: where the visual tokens begin.
        grid: their ``(h, w)``.
        labels: ``(h', w')``, as of a :class:`TrainingSample`; from another resolution maybe.
    """

    id: str
    hidden: torch.Tensor
    positions: torch.Tensor
    start: int
    grid: tuple[int, int]
    labels: npt.NDArray[Any]


@dataclass(frozen=True)
class SkippedSample:
    """A record that cannot be trained on, and why; counted, like those of the label stage."""

    id: str
    reason: str


def log_skipped(skipped: SkippedSample) -> None:
    """Name a record that is left out in the log, and say why."""
    logger.warning("record %r is skipped: %s", skipped.id, skipped.reason)


Item: TypeAlias = "TrainingSample | CachedSample | SkippedSample"


class Samples(Protocol):
    """Samples by number."""

    def __getitem__(self, index: int, /) -> Item:
        """One of them."""


class SizedSamples(Samples, Protocol):
    """A data set of samples."""

    def __len__(self) -> int:
        """How many there are."""


class DrawnSamples(Dataset[Item], ABC):
    """Samples that are drawn anew in each epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are in an epoch."""

    @abstractmethod
    def draw(self, index: int, epoch: int) -> Item:
        """A sample, as it is in an epoch."""

    def __getitem__(self, index: int) -> Item:
        """A sample of the first epoch."""
        return self.draw(index, 0)


class EveryEpoch(Dataset[Item]):
    """The samples of all epochs, one epoch behind the other.

    Args:
        samples: the data set.
    """

    def __init__(self, samples: SizedSamples) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> Item:
        epoch, index = divmod(number, len(self.samples))
        if isinstance(self.samples, DrawnSamples):
            return self.samples.draw(index, epoch)
        return self.samples[index]


class StoredLabels(Dataset[Item]):
    """Samples whose attention maps were stored by the label stage.

    Args:
        rows: the label run.
        labeler: makes labels from maps; its recipe may have other thresholds than the run's.
        preprocess: makes the encoder's input of an image.
        max_pixels: images with more pixels are skipped.
    """

    def __init__(
        self,
        rows: LabelDataset,
        labeler: PseudoLabeler,
        preprocess: Preprocessor,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.rows = rows
        self.labeler = labeler
        self.preprocess = preprocess
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        row = self.rows[index]
        try:
            if row.image is None or row.grounding is None or row.geometry is None:
                raise InputError("the image or its maps were not stored")
            image = open_image(row.image, max_pixels=self.max_pixels)
            if image.size != row.geometry.source_size:
                found, labeled = (f"{w}x{h}" for w, h in (image.size, row.geometry.source_size))
                raise ShardError(
                    f"record {row.id!r} was labeled on an image of {labeled} pixels, now it has "
                    f"{found}: the image changed, label again"
                )
            labels = self.labeler(row.grounding, row.sink, row.geometry.content()).labels
            prepared = self.preprocess(image)
        except (InputError, AttentionError) as error:
            return SkippedSample(row.id, str(error))
        return TrainingSample(row.id, row.question, prepared, labels)


class AnsweredRecords(Dataset[Item]):
    """Samples whose labels are made while training, from the responses that the records come with.

    Args:
        records: where they are.
        preprocess: makes the encoder's input of an image.
        max_pixels: images with more pixels are skipped.
    """

    def __init__(
        self, records: RecordSource, preprocess: Preprocessor, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.records = records
        self.preprocess = preprocess
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Item:
        record = self.records[index]
        try:
            validate_record(record)
            source = only_image(record, "training")
            if not (record.response or "").strip():
                raise InputError(f"record {record.id!r} comes without a response")
            prepared = self.preprocess(open_image(source, max_pixels=self.max_pixels))
        except InputError as error:
            return SkippedSample(record.id, str(error))
        return TrainingSample(record.id, record.question, prepared, response=record.response)

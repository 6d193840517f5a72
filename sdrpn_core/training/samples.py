"""What the data loader yields: a question, its picture, and either labels or a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from sdrpn_core.errors import AttentionError, InputError, SdrpnError, ShardError
from sdrpn_core.images import open_image
from sdrpn_core.records import validate_record

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.label_shards import LabelDataset
    from sdrpn_core.labels import PseudoLabeler
    from sdrpn_core.records import RecordSource


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture to train on.

    Attributes:
        id: of the record.
        question: what is asked.
        image: RGB, upright.
        labels: ``(h, w)`` int64 in {-100, 0, 1}; ``None`` if they are made while training.
        response: whose attention the labels are made from; ``None`` where ``labels`` are given.
    """

    id: str
    question: str
    image: Image.Image
    labels: npt.NDArray[np.int64] | None = None
    response: str | None = None


@dataclass(frozen=True)
class SkippedSample:
    """A record that cannot be trained on, and why; counted, like those of the label stage."""

    id: str
    reason: str


Item: TypeAlias = "Sample | SkippedSample"


class StoredLabels(Dataset[Item]):
    """Samples whose attention maps were stored by the label stage.

    Args:
        rows: the label run.
        labeler: makes labels from maps; its recipe may have other thresholds than the run's.
    """

    def __init__(self, rows: LabelDataset, labeler: PseudoLabeler) -> None:
        self.rows = rows
        self.labeler = labeler

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        row = self.rows[index]
        try:
            if row.image is None or row.grounding is None or row.geometry is None:
                raise InputError("the picture or its maps were not stored")
            image = open_image(row.image)
            if image.size != row.geometry.source_size:
                found, labelled = (f"{w}x{h}" for w, h in (image.size, row.geometry.source_size))
                raise ShardError(
                    f"record {row.id!r} was labelled on a picture of {labelled} pixels, now it has "
                    f"{found}: the picture changed, label again"
                )
            labels = self.labeler(row.grounding, row.sink, row.geometry.content()).labels
        except (InputError, AttentionError) as error:
            return SkippedSample(row.id, str(error))
        return Sample(row.id, row.question, image, labels)


class AnsweredRecords(Dataset[Item]):
    """Samples whose labels are made while training, from the responses that the records come with.

    Args:
        records: where they are.
    """

    def __init__(self, records: RecordSource) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Item:
        record = self.records[index]
        try:
            validate_record(record)
            if record.image is None or not (record.response or "").strip():
                raise InputError(f"record {record.id!r} comes without a response")
            image = open_image(record.image)
        except InputError as error:
            return SkippedSample(record.id, str(error))
        return Sample(record.id, record.question, image, response=record.response)


class Guarded(Dataset["Item | SdrpnError"]):
    """Hands errors over as values.

    A data loader's worker process would wrap an exception in its own traceback, and the one line
    that says what is wrong would be lost.

    Args:
        dataset: the samples.
    """

    def __init__(self, dataset: Dataset[Item]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Item | SdrpnError:
        try:
            return self.dataset[index]
        except SdrpnError as error:
            return error

"""One question about an image, and a source of many of these."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union, overload

from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdrpn_core.grid.geometry import Box

__all__ = ["ImageSource", "Record", "RecordSource", "validate_record"]

ImageSource = Union[Path, bytes, "Image"]
"""An image that has not been opened: a file, its encoded bytes, or a PIL image."""


JSONL_SUFFIXES = (".jsonl", ".ndjson")


PARQUET_SUFFIX = ".parquet"


@dataclass(frozen=True)
class Record:
    """One question about one image.

    Attributes:
        id: Unique within its source.
        image: The image, not opened; ``None`` if the record has none. Text is taken as a path.
        question: May be empty, which :func:`validate_record` refuses.
        response: What the backbone is taken to have answered, if that is given rather than
            generated.
        answer: The correct answer, for the benchmark.
        boxes: Regions that hold the answer, (x0, y0, x1, y1) half-open in source pixels.
    """

    id: str
    image: ImageSource | None
    question: str
    response: str | None = None
    answer: str | None = None
    boxes: tuple[Box, ...] | None = None

    def __post_init__(self) -> None:
        given: object = self.image
        if isinstance(given, str):
            object.__setattr__(self, "image", Path(given))


class RecordSource(Sequence[Record]):
    """Records that are read when asked for: sized, indexable, cheap to send to a process."""

    name: str
    """What the user called this source, for messages and provenance."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of what the source holds: equal digests, equal records in the same order."""

    @abstractmethod
    def _record(self, index: int) -> Record:
        """Return record ``index``, which is known to lie in ``range(len(self))``."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        """Return one record, or a list of them for a slice.

        Raises:
            IndexError: There is no such record.
            InputError: The source changed since it was opened and can no longer be read.
        """
        positions = range(len(self))[index]
        if isinstance(positions, range):
            return [self._record(position) for position in positions]
        return self._record(positions)


def validate_record(record: Record) -> None:
    """Check that a record can be asked.

    Raises:
        InputError: The question is empty or blank, or there is no image.
    """
    if not record.question.strip():
        raise InputError(f"record {record.id!r}: the question is empty")
    if record.image is None:
        raise InputError(f"record {record.id!r}: the question comes without an image")

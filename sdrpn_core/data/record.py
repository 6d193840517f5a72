"""One question about an image or several, and a source of many of these."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, overload

from sdrpn_core.data.text import check_question, check_text
from sdrpn_core.errors import InputError
from sdrpn_core.util.formatting import short_repr

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdrpn_core.grid.geometry import Box

__all__ = ["ImageSource", "Record", "RecordSource", "only_image", "validate_record"]

ImageSource = Union[Path, bytes, "Image"]
"""An image that has not been opened: a file, its encoded bytes, or a PIL image."""


JSONL_SUFFIXES = (".jsonl", ".ndjson")
JSON_SUFFIX = ".json"
PARQUET_SUFFIX = ".parquet"

HUB_PREFIX = "hf:"
"""What stands before the id of a data set of the Hugging Face Hub."""


@dataclass(frozen=True)
class Record:
    """One question about one image, or about several.

    A single image or answer may be given without a tuple around it.

    Attributes:
        id: Unique within its source.
        images: The images, not opened, in the order in which the prompt shows them; empty if the
            record has none. Text is taken as a path.
        question: May be empty, which :func:`validate_record` refuses.
        response: What the backbone is taken to have answered, if that is given rather than
            generated.
        answers: All accepted answers, for the benchmark; empty if none is known.
        options: The choices of a multiple-choice question, in the order A, B, ...; its answer is
            the right letter.
        category: The kind of question, such as a subset of a benchmark.
        boxes: Regions that hold the answer, (x0, y0, x1, y1) half-open in source pixels of the
            record's only image; empty if it is known that none does, ``None`` if nothing is known.
        problem: Why the row of a file cannot be used, and where it stands; ``None`` if it can. Such
            a record keeps its place in the source, so that it is skipped, counted and named.
        extra: The other columns of the row, by name, for metrics and plugins.
    """

    id: str
    images: tuple[ImageSource, ...]
    question: str
    response: str | None = None
    answers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    category: str | None = None
    boxes: tuple[Box, ...] | None = None
    problem: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        images = tuple(
            Path(image) if isinstance(image, str) else image for image in _several(self.images)
        )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "answers", _several(self.answers))
        object.__setattr__(self, "options", _several(self.options))

    @property
    def answer(self) -> str | None:
        """The first accepted answer, or ``None``."""
        return self.answers[0] if self.answers else None


def _several(value: object) -> tuple[Any, ...]:
    """A value that may be one of several, or none, as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


class RecordSource(Sequence[Record]):
    """Records that are read when asked for: sized, indexable, cheap to send to a process."""

    name: str
    """What the user called this source, for messages and provenance."""

    dataset: str | None = None
    """The registered dataset that the records come from; ``None`` for other sources."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of what the source holds: equal digests, equal records in the same order."""

    def outlines(self) -> Iterator[Record]:
        """Go through the records without their images, for what must be known of all of them."""
        return (replace(self._record(index), images=()) for index in range(len(self)))

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
        InputError: The row that it comes from cannot be used; a text is not valid Unicode; the
            question is empty or blank; or there is no image.
    """
    if record.problem is not None:
        raise InputError(record.problem)
    where = f"record {short_repr(record.id)}"
    texts = [("id", record.id), ("response", record.response), ("category", record.category)]
    texts += [("answer", answer) for answer in record.answers]
    texts += [("option", option) for option in record.options]
    texts += [("image path", str(image)) for image in record.images if isinstance(image, Path)]
    for name, text in texts:
        if text is not None:
            check_text(text, f"{where}: the {name}")
    check_question(record.question, what=f"{where}: the question")
    if not record.images:
        raise InputError(f"{where}: the question comes without an image")


def only_image(record: Record, stage: str) -> ImageSource:
    """Return the image of a record, for a stage that takes one.

    Args:
        record: a valid one.
        stage: what the stage does, for the message, such as ``"labeling"``.

    Raises:
        InputError: The record has no image, or several.
    """
    if len(record.images) != 1:
        raise InputError(
            f"record {short_repr(record.id)}: {stage} takes records of one image, this one has "
            f"{len(record.images)}"
        )
    return record.images[0]

"""Question-answer data: one :class:`Record` per question, read lazily from wherever it lies.

``read_records`` accepts a JSONL file, a parquet file or folder, the name of a registered dataset,
or records made in Python. Only the texts are looked at when a source is opened, so that a malformed
file is reported at once; pictures are left closed, so that a broken one can be counted and skipped
later.
"""

from __future__ import annotations

import hashlib
import json
import random
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union, overload

from sdrpn_core.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdrpn_core.geometry import Box

__all__ = ["ImageSource", "Record", "RecordSource", "read_records", "validate_record"]

ImageSource = Union[Path, bytes, "Image"]
"""A picture that has not been opened: a file, its encoded bytes, or a PIL image."""

JSONL_SUFFIXES = (".jsonl", ".ndjson")
PARQUET_SUFFIX = ".parquet"

DEFAULT_ID_DIGITS = 8
"""Width of the zero-padded index that stands in for a missing id: sorts well up to 100 million."""


@dataclass(frozen=True)
class Record:
    """One question about one picture.

    Attributes:
        id: Unique within its source.
        image: The picture, not opened; ``None`` if the record has none.
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


def read_records(
    source: str | Path | Sequence[Record], *, n: int | None = None, seed: int = 0
) -> RecordSource:
    """Open question-answer data.

    Files have the columns ``image`` and ``question``, and optionally ``id``, ``response``,
    ``answer`` and ``boxes``; others are ignored. In JSONL ``image`` is a path relative to the
    file's folder. In parquet it is a path (likewise), encoded bytes, or the ``{bytes, path}``
    struct of Hugging Face datasets. A missing id becomes the zero-padded index of the record in its
    file.

    Args:
        source: A ``.jsonl`` / ``.ndjson`` / ``.parquet`` file, a folder of parquet files, the name
            of a registered dataset such as ``"name/split"`` (which wins over a folder of that name:
            write ``./name/split`` for the folder), or records.
        n: At most this many records. A file gives a random sample in the file's order; a smaller
            sample with the same seed is part of a larger one. A registered dataset makes ``n``.
        seed: Selects the sample, or the content of a generated dataset.

    Raises:
        InputError: The source is missing, empty or malformed (with file and line or row), holds an
            id twice, or ``n`` is not positive.
        UnknownNameError: ``source`` is no file and no registered dataset; lists the near names.
    """
    if n is not None and n < 1:
        raise InputError(f"the number of records must be at least 1, got {n}")
    if isinstance(source, (str, Path)):
        files = _open_files(source)
        if files is None:
            return _NamedRecords(str(source), n, seed)
    else:
        files = _GivenRecords(source)
    return files if n is None or n >= len(files) else _Sample(files, n, seed)


def validate_record(record: Record, *, needs_image: bool = True) -> None:
    """Check that a record can be asked.

    Raises:
        InputError: The question is empty or blank, or the picture is missing though needed.
    """
    if not record.question.strip():
        raise InputError(f"record {record.id!r}: the question is empty")
    if needs_image and record.image is None:
        raise InputError(f"record {record.id!r}: the question comes without a picture")


def default_id(index: int) -> str:
    """Return the id of a record that brings none."""
    return f"{index:0{DEFAULT_ID_DIGITS}d}"


def _open_files(source: str | Path) -> RecordSource | None:
    """Open ``source`` as files; ``None`` if it must be the name of a registered dataset."""
    from sdrpn_core import record_files  # pyarrow is not needed to make records in Python

    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in (*JSONL_SUFFIXES, PARQUET_SUFFIX) and not path.exists():
        raise InputError(f"{path}: no such file")
    if suffix in JSONL_SUFFIXES and path.is_file():
        return record_files.JsonlRecords(path)
    if suffix == PARQUET_SUFFIX and path.is_file():
        return record_files.ParquetRecords(path)
    if isinstance(source, str) and not path.is_file() and _is_registered(source):
        return None
    if path.is_dir():
        return record_files.ParquetRecords(path)
    if path.is_file():
        known = ", ".join((*JSONL_SUFFIXES, PARQUET_SUFFIX))
        raise InputError(f"{path}: cannot read {suffix or 'such'} files: give one of {known}")
    if isinstance(source, str):
        from sdrpn_core.plugins import get_plugins

        known_names = get_plugins().datasets.names()
        raise UnknownNameError("file, folder or dataset", source, known_names)
    raise InputError(f"{path}: no such file or folder")


def _is_registered(name: str) -> bool:
    from sdrpn_core.plugins import get_plugins

    return name in get_plugins().datasets


class UniqueIds:
    """Refuses an id that was seen before.

    Args:
        where: The source, for the message.
        unit: What is counted in it, such as ``"line"``.
    """

    def __init__(self, where: str, unit: str) -> None:
        self._where = where
        self._unit = unit
        self._first: dict[str, int] = {}

    def add(self, record_id: str, number: int) -> None:
        """Note the id that stands at ``number``.

        Raises:
            InputError: It was noted before; names both places.
        """
        first = self._first.setdefault(record_id, number)
        if first != number:
            raise InputError(
                f"{self._where}: {self._unit} {number}: id {record_id!r} is already used by "
                f"{self._unit} {first}; ids must be unique"
            )


def text_digest(record: Record) -> bytes:
    """Return the texts and boxes of a record as bytes for a fingerprint."""
    fields = (record.id, record.question, record.response, record.answer, record.boxes)
    return json.dumps(fields).encode()


class _GivenRecords(RecordSource):
    """Records made in Python."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.name = "records"
        self._records = tuple(records)
        if not self._records:
            raise InputError("no records were given")
        ids = UniqueIds("the given records", "record")
        for index, record in enumerate(self._records):
            ids.add(record.id, index)

    def __len__(self) -> int:
        return len(self._records)

    def _record(self, index: int) -> Record:
        return self._records[index]

    @property
    def fingerprint(self) -> str:
        return _digest_records(self._records, "")


class _NamedRecords(RecordSource):
    """A registered dataset; whether its records are stored or generated is its own affair."""

    def __init__(self, name: str, n: int | None, seed: int) -> None:
        from sdrpn_core.plugins import get_plugins

        self.name = name
        self._made_with = f"{name} n={n} seed={seed}"
        self._records: Sequence[Record] = get_plugins().datasets.get(name)(n=n, seed=seed)
        if not len(self._records):
            raise InputError(f"dataset {name!r} has no records")

    def __len__(self) -> int:
        return len(self._records)

    def _record(self, index: int) -> Record:
        return self._records[index]

    @property
    def fingerprint(self) -> str:
        # Making every picture only to name the dataset would double the work; the ends of the
        # sequence reveal a generator that changed.
        probes = sorted({0, len(self) // 2, len(self) - 1})
        return _digest_records(
            (self._records[i] for i in probes), f"{self._made_with} of {len(self)}"
        )


class _Sample(RecordSource):
    """A seeded choice of another source's records, in that source's order."""

    def __init__(self, source: RecordSource, n: int, seed: int) -> None:
        self.name = source.name
        self._source = source
        self._made_with = f"n={n} seed={seed}"
        # Only random() is promised to repeat across Python versions; sample() and shuffle() are
        # not.
        generator = random.Random(seed)
        keys = [generator.random() for _ in range(len(source))]
        self._indices = sorted(sorted(range(len(source)), key=keys.__getitem__)[:n])

    def __len__(self) -> int:
        return len(self._indices)

    def _record(self, index: int) -> Record:
        return self._source[self._indices[index]]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._source.fingerprint} {self._made_with}".encode()).hexdigest()


def _digest_records(records: Iterable[Record], prefix: str) -> str:
    digest = hashlib.sha256(prefix.encode())
    for record in records:
        digest.update(text_digest(record) + b"\n")
        image = record.image
        if image is None or isinstance(image, Path):
            digest.update(str(image).encode())
        elif isinstance(image, bytes):
            digest.update(image)
        else:
            digest.update(f"{image.mode} {image.size}".encode())
            digest.update(image.tobytes())
    return digest.hexdigest()

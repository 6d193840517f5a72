"""Records that do not come from a file: made in Python, from a registered dataset, or sampled."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sdrpn_core.data.parsing import UniqueIds, text_digest, type_name
from sdrpn_core.data.record import Record, RecordSource
from sdrpn_core.errors import InputError

__all__ = ["GivenRecords", "NamedRecords", "SampledRecords", "sample_indices"]


class GivenRecords(RecordSource):
    """Records made in Python."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.name = "records"
        if not isinstance(records, Iterable):
            raise InputError(f"expected a path or records, not {type(records).__name__}")
        self._records = tuple(records)
        if not self._records:
            raise InputError("no records were given")
        ids = UniqueIds("the given records", "record")
        for index, record in enumerate(self._records):
            if not isinstance(record, Record):
                raise InputError(f"record {index} is not a Record but {type_name(record)}")
            repeated = ids.add(record.id, index)
            if repeated is not None:
                raise InputError(repeated)

    def __len__(self) -> int:
        return len(self._records)

    def _record(self, index: int) -> Record:
        return self._records[index]

    @property
    def fingerprint(self) -> str:
        """Hex digest of the records, images included; files by their path."""
        return _digest(self._records, "")


class NamedRecords(RecordSource):
    """A registered dataset; whether its records are stored or generated is its own affair."""

    def __init__(self, name: str, n: int | None, seed: int, copy: str | None = None) -> None:
        from sdrpn_core.plugins.manager import get_plugins

        self.name = self.dataset = name
        self._made_with = f"{name} n={n} seed={seed}"
        dataset = get_plugins().datasets.get(name)
        if copy is not None:
            if not hasattr(dataset, "at"):
                raise InputError(f"dataset {name!r} is made by its plugin: there is no copy of it")
            dataset = dataset.at(copy)
        self._records: Sequence[Record] = dataset(n=n, seed=seed)
        if not len(self._records):
            raise InputError(f"dataset {name!r} has no records")

    def __len__(self) -> int:
        return len(self._records)

    def _record(self, index: int) -> Record:
        return self._records[index]

    def outlines(self) -> Iterator[Record]:
        """Go through the records without their images."""
        if isinstance(self._records, RecordSource):
            return self._records.outlines()
        return super().outlines()

    @property
    def fingerprint(self) -> str:
        """Hex digest of the name, ``n``, ``seed``, and the first, middle and last record.

        Making every image only to name the dataset would double the work; three records reveal
        a generator that changed.
        """
        if isinstance(self._records, RecordSource):
            return hashlib.sha256(
                f"{self._made_with} {self._records.fingerprint}".encode()
            ).hexdigest()
        probes = sorted({0, len(self) // 2, len(self) - 1})
        return _digest((self._records[i] for i in probes), f"{self._made_with} of {len(self)}")


class SampledRecords(RecordSource):
    """A seeded choice of another source's records, in that source's order."""

    def __init__(self, source: RecordSource, n: int, seed: int) -> None:
        self.name = source.name
        self.dataset = source.dataset
        self._source = source
        self._made_with = f"n={n} seed={seed}"
        self._indices = sample_indices(len(source), n, seed)

    def __len__(self) -> int:
        return len(self._indices)

    def _record(self, index: int) -> Record:
        return self._source[self._indices[index]]

    def outlines(self) -> Iterator[Record]:
        """Go through the records without their images, which is quick if the source's is."""
        chosen = set(self._indices)
        return (one for index, one in enumerate(self._source.outlines()) if index in chosen)

    @property
    def fingerprint(self) -> str:
        """Hex digest of the whole source's fingerprint and of the choice."""
        return hashlib.sha256(f"{self._source.fingerprint} {self._made_with}".encode()).hexdigest()


def sample_indices(length: int, n: int, seed: int) -> list[int]:
    """Choose ``n`` of ``length`` records, in order; a smaller choice is part of a larger one."""
    # Of this generator only random() is promised to repeat across Python versions.
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(length)]
    return sorted(sorted(range(length), key=keys.__getitem__)[:n])


def _digest(records: Iterable[Record], prefix: str) -> str:
    digest = hashlib.sha256(prefix.encode())
    for record in records:
        digest.update(text_digest(record) + b"\n")
        for image in record.images:
            if isinstance(image, Path):
                digest.update(str(image).encode("utf-8", "surrogatepass"))
            elif isinstance(image, bytes):
                digest.update(image)
            else:
                from sdrpn_core.data.images import raw_bytes

                digest.update(raw_bytes(image))
    return digest.hexdigest()

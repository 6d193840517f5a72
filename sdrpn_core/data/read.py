"""Question-answer data: one :class:`Record` per question, read lazily from wherever it lies.

``read_records`` accepts a JSONL file, a parquet file or folder, the name of a registered dataset,
or records made in Python. Only the texts are looked at when a source is opened, so that a file of
another kind is reported at once. A row that cannot be used keeps its place as a record with a
``problem``, and images are left closed: either is skipped, counted and named by whoever goes
through the records.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sdrpn_core.data.record import JSONL_SUFFIXES, PARQUET_SUFFIX, Record, RecordSource
from sdrpn_core.errors import InputError, UnknownNameError

__all__ = ["is_dataset_name", "read_records"]


def read_records(
    source: str | Path | Sequence[Record], *, n: int | None = None, seed: int = 0
) -> RecordSource:
    """Open question-answer data.

    Files have the columns ``image`` and ``question``, and optionally ``id``, ``response``,
    ``answer`` and ``boxes``; others are ignored. In JSONL ``image`` is a path relative to the
    file's folder. In parquet it is a path (likewise), encoded bytes, or the ``{bytes, path}``
    struct of Hugging Face datasets. A missing id becomes the zero-padded index of the record in its
    file. What has one meaning is accepted: a number as an id or answer, a list of one answer, a
    single box, a box with fractions (the whole pixels that it touches).

    Args:
        source: A ``.jsonl`` / ``.ndjson`` / ``.parquet`` file, a folder of parquet files, the name
            of a registered dataset such as ``"name/split"`` (which wins over a folder of that name:
            write ``./name/split`` for the folder), or records.
        n: At most this many records. A file gives a random sample in the file's order; a smaller
            sample with the same seed is part of a larger one. A registered dataset makes ``n``.
        seed: Selects the sample, or the content of a generated dataset.

    Raises:
        InputError: The source is missing, empty, of another kind, or without a row that can be
            used; records made in Python hold an id twice; or ``n`` is not positive.
        UnknownNameError: ``source`` is no file and no registered dataset; lists the near names.
    """
    from sdrpn_core.data.sources import GivenRecords, NamedRecords, SampledRecords

    if n is not None and n < 1:
        raise InputError(f"the number of records must be at least 1, got {n}")
    if isinstance(source, str) and is_dataset_name(source):
        return NamedRecords(source, n, seed)
    if isinstance(source, (str, Path)):
        records = _open_files(source)
    else:
        records = source if isinstance(source, RecordSource) else GivenRecords(source)
    return records if n is None or n >= len(records) else SampledRecords(records, n, seed)


def is_dataset_name(source: str) -> bool:
    """Whether ``read_records`` takes this for a registered dataset, and not for a path."""
    # These functions take a name that no file can have for one that does not exist.
    if Path(source).suffix.lower() in (*JSONL_SUFFIXES, PARQUET_SUFFIX) or os.path.isfile(source):
        return False
    from sdrpn_core.plugins.manager import get_plugins

    return source in get_plugins().datasets


def _open_files(source: str | Path) -> RecordSource:
    path = Path(source)
    suffix = path.suffix.lower()
    # The readers need pyarrow, which records made in Python do not.
    is_file = os.path.isfile(path)
    if suffix in JSONL_SUFFIXES and is_file:
        from sdrpn_core.data.jsonl import JsonlRecords

        return JsonlRecords(path)
    if os.path.isdir(path) or (suffix == PARQUET_SUFFIX and is_file):
        from sdrpn_core.data.parquet import ParquetRecords

        return ParquetRecords(path)
    known = (*JSONL_SUFFIXES, PARQUET_SUFFIX)
    if os.path.exists(path):
        if not is_file:
            raise InputError(f"{path}: cannot be read: not a regular file")
        kind = f"a {suffix} file" if suffix else "a file without suffix"
        raise InputError(f"{path}: cannot read {kind}: give one of {', '.join(known)}")
    if isinstance(source, Path) or suffix in known:
        raise InputError(f"{path}: no such file or folder")
    from sdrpn_core.plugins.manager import get_plugins

    raise UnknownNameError("file, folder or dataset", source, get_plugins().datasets.names())

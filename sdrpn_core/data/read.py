"""Question-answer data: one :class:`Record` per question, read lazily from wherever it lies.

``read_records`` accepts a JSONL file, a parquet file or folder, the name of a registered dataset,
or records made in Python. Only the texts are looked at when a source is opened, so that a malformed
file is reported at once; images are left closed, so that a broken one can be counted and skipped
later.
"""

from __future__ import annotations

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
    path = Path(source)
    if path.suffix.lower() in (*JSONL_SUFFIXES, PARQUET_SUFFIX) or path.is_file():
        return False
    from sdrpn_core.plugins.manager import get_plugins

    return source in get_plugins().datasets


def _open_files(source: str | Path) -> RecordSource:
    path = Path(source)
    suffix = path.suffix.lower()
    # The readers need pyarrow, which records made in Python do not.
    if suffix in JSONL_SUFFIXES and path.is_file():
        from sdrpn_core.data.jsonl import JsonlRecords

        return JsonlRecords(path)
    if path.is_dir() or (suffix == PARQUET_SUFFIX and path.is_file()):
        from sdrpn_core.data.parquet import ParquetRecords

        return ParquetRecords(path)
    known = (*JSONL_SUFFIXES, PARQUET_SUFFIX)
    if path.exists():
        kind = f"a {suffix} file" if suffix else "a file without suffix"
        raise InputError(f"{path}: cannot read {kind}: give one of {', '.join(known)}")
    if isinstance(source, Path) or suffix in known:
        raise InputError(f"{path}: no such file or folder")
    from sdrpn_core.plugins.manager import get_plugins

    raise UnknownNameError("file, folder or dataset", source, get_plugins().datasets.names())

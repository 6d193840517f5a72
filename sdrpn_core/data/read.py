"""Question-answer data: one :class:`Record` per question, read lazily from wherever it lies.

``read_records`` accepts a JSONL, JSON or parquet file, a folder of parquet files, a data set of the
Hugging Face Hub, a ``datasets.Dataset``, the name of a registered dataset, or records made in
Python. Only the texts are looked at when a source is opened, so that a file of another kind is
reported at once. A row that cannot be used keeps its place as a record with a ``problem``, and
images are left closed: either is skipped, counted and named by whoever goes through the records.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdrpn_core.data.options import ReadOptions
from sdrpn_core.data.record import (
    HUB_PREFIX,
    JSON_SUFFIX,
    JSONL_SUFFIXES,
    PARQUET_SUFFIX,
    Record,
    RecordSource,
)
from sdrpn_core.errors import ConfigError, InputError, UnknownNameError
from sdrpn_core.util.whole_numbers import is_whole

if TYPE_CHECKING:
    import datasets

    from sdrpn_core.data.table import Table

__all__ = ["absolute_source", "dataset_name", "read_records"]

_FILES = (*JSONL_SUFFIXES, JSON_SUFFIX, PARQUET_SUFFIX)

_COPY = "="
"""Between the name of a registered dataset and the path of its local copy."""


def read_records(
    source: str | Path | Sequence[Record] | datasets.Dataset | datasets.IterableDataset,
    *,
    n: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    image_root: str | Path | None = None,
    split: str | None = None,
    allow_urls: bool = False,
) -> RecordSource:
    """Open question-answer data.

    Tables have the columns ``image`` (or ``images``) and ``question``, and optionally ``id``,
    ``response``, ``answer`` (or ``answers``), ``options``, ``category`` and ``boxes``; all others
    become the ``extra`` of a record. An image is a path relative to the folder of its file, encoded
    bytes, base64 text, a data URI, a URL, or the ``{bytes, path}`` struct of Hugging Face datasets;
    several are a list. A table with ``conversations``, as files for visual instruction tuning have
    them, gives a record per question. A missing id becomes the zero-padded index of the row. What
    has one meaning is accepted: a number as an id or answer, a list of one, a single box, a box
    with fractions (the whole pixels that it touches), an option's text or index in place of its
    letter.

    Args:
        source: A ``.jsonl`` / ``.ndjson`` / ``.json`` / ``.parquet`` file, a folder of parquet
            files, ``"hf:ORG/NAME[:CONFIG]:SPLIT"`` (extra ``data``), a dataset of that library, the
            name of a registered dataset such as ``"name/split"`` (which wins over a folder of that
            name: write ``./name/split`` for the folder), ``"name=path"`` for a local copy of it, or
            records.
        n: At most this many records. A file gives a random sample in the file's order; a smaller
            sample with the same seed is part of a larger one. A registered dataset makes ``n``; a
            stream gives its first.
        seed: Selects the sample, or the content of a generated dataset.
        columns: Which column holds a field, if it has another name: ``{"question": "query"}``;
            several columns that are one field are separated by commas:
            ``{"options": "A,B,C,D"}``; an empty name stands for no column.
        image_root: Folder of relative image paths; default: that of the file.
        split: Which split of a folder; needed if it holds several.
        allow_urls: Download images that are given as URLs; by default they are refused.

    Raises:
        InputError: The source is missing, empty, of another kind, or without a row that can be
            used; records made in Python hold an id twice; ``n`` is no whole number of at least 1; a
            folder holds several splits; or the Hub cannot be reached.
        ConfigError: An option that the source has no use for.
        UnknownNameError: ``source`` is no file and no registered dataset, or ``columns`` names no
            field; lists the near names.
    """
    from sdrpn_core.data.sources import GivenRecords, NamedRecords, SampledRecords

    options = ReadOptions(columns or {}, image_root, split, allow_urls)
    if n is not None and (not is_whole(n) or int(n) < 1):
        raise InputError(f"the number of records must be a whole number of at least 1, got {n!r}")
    if isinstance(source, str) and (name := dataset_name(source)) is not None:
        _refuse(options.given(), f"dataset {name!r}")
        return NamedRecords(name, n, seed, source.partition(_COPY)[2] or None)
    if isinstance(source, str) and source.startswith(HUB_PREFIX):
        from sdrpn_core.data.hub import HubSplit, hub_records

        _refuse({"split"} & {*options.given()}, source)
        return hub_records(HubSplit.parse(source), options, n, seed)
    if isinstance(source, (str, Path)):
        from sdrpn_core.data.table import TableRecords

        # The readers need pyarrow, which records made in Python do not.
        records: RecordSource = TableRecords(_open_files(source, split), options)
    elif type(source).__module__.partition(".")[0] == "datasets":
        from sdrpn_core.data.hub import dataset_records

        _refuse({"split"} & {*options.given()}, "a Dataset")
        return dataset_records(source, options, n, seed)
    else:
        _refuse(options.given(), "records made in Python")
        records = source if isinstance(source, RecordSource) else GivenRecords(source)
    return records if n is None or n >= len(records) else SampledRecords(records, n, seed)


def dataset_name(source: str) -> str | None:
    """The name of the registered dataset that ``read_records`` takes this for; else ``None``."""
    from sdrpn_core.plugins.manager import get_plugins

    name, has_copy, _ = source.partition(_COPY)
    if has_copy:
        is_name = not os.path.exists(source) and name in get_plugins().datasets
        return name if is_name else None
    # These functions take a name that no file can have for one that does not exist.
    if Path(source).suffix.lower() in _FILES or os.path.isfile(source):
        return None
    return source if source in get_plugins().datasets else None


def absolute_source(source: str) -> str:
    """The same source as a process that runs in another folder names it: its path is absolute."""
    name, has_copy, copy = source.partition(_COPY)
    if dataset_name(source) is not None:
        return f"{name}{has_copy}{os.path.abspath(copy)}" if has_copy else source
    if source.startswith(HUB_PREFIX):
        repo, colon, rest = source.removeprefix(HUB_PREFIX).partition(":")
        return (
            f"{HUB_PREFIX}{os.path.abspath(repo)}{colon}{rest}" if os.path.isdir(repo) else source
        )
    return os.path.abspath(source) if os.path.exists(source) else source


def _refuse(given: Iterable[str], what: str) -> None:
    for name in given:
        raise ConfigError(f"{what} has no use for the option {name!r}")


def _open_files(source: str | Path, split: str | None) -> Table:
    path = Path(source)
    suffix = path.suffix.lower()
    is_file = os.path.isfile(path)
    if is_file and split is not None:
        raise ConfigError(f"{path}: is one file, which has no splits")
    if suffix in JSONL_SUFFIXES and is_file:
        from sdrpn_core.data.jsonl import JsonlTable

        return JsonlTable(path)
    if suffix == JSON_SUFFIX and is_file:
        from sdrpn_core.data.json_file import JsonTable

        return JsonTable(path)
    if os.path.isdir(path) or (suffix == PARQUET_SUFFIX and is_file):
        from sdrpn_core.data.parquet import ParquetTable

        return ParquetTable(path, split)
    if os.path.exists(path):
        if not is_file:
            raise InputError(f"{path}: cannot be read: not a regular file")
        kind = f"a {suffix} file" if suffix else "a file without suffix"
        raise InputError(f"{path}: cannot read {kind}: give one of {', '.join(_FILES)}")
    if isinstance(source, Path) or suffix in _FILES:
        raise InputError(f"{path}: no such file or folder")
    from sdrpn_core.plugins.manager import get_plugins

    raise UnknownNameError("file, folder or dataset", source, get_plugins().datasets.names())

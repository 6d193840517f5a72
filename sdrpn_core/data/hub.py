"""Data sets of the Hugging Face Hub, and objects of its library ``datasets`` (extra ``data``)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.data.arrow_rows import batch_rows, check_schema, text_columns
from sdrpn_core.data.fields import Fields, Row
from sdrpn_core.data.record import HUB_PREFIX
from sdrpn_core.data.sources import SampledRecords, sample_indices
from sdrpn_core.data.table import Table, TableRecords
from sdrpn_core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import datasets

    from sdrpn_core.data.options import ReadOptions
    from sdrpn_core.data.record import RecordSource

__all__ = ["HubSplit", "dataset_records", "hub_records"]

STREAM_ABOVE = 2 * 1000**3
"""Bytes of a configuration from which a sample is streamed, and the rest never stored."""

TEXT_ROWS = 1024
"""Rows whose texts are read at a time."""

STREAM_ROWS = 16
"""Rows of a stream that are held at a time, besides the chosen ones."""


@dataclass(frozen=True)
class HubSplit:
    """A split of a data set on the Hub, or of a local copy.

    Attributes:
        repo: id on the Hub (``org/name``), or a local folder in the Hub's layout.
        split: name of the split.
        config: name of the configuration; ``None``: the only one.
    """

    repo: str
    split: str
    config: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubSplit:
        """Parse ``hf:ORG/NAME[:CONFIG]:SPLIT``.

        Raises:
            InputError: It is spelled differently.
        """
        repo, *rest = text.removeprefix(HUB_PREFIX).split(":")
        if not repo or not all(rest) or len(rest) not in (1, 2):
            raise InputError(f"{text!r}: write {HUB_PREFIX}ORG/NAME:SPLIT or ORG/NAME:CONFIG:SPLIT")
        return cls(repo, rest[-1], rest[0] if len(rest) > 1 else None)

    def __str__(self) -> str:
        return HUB_PREFIX + ":".join(filter(None, (self.repo, self.config, self.split)))


def hub_records(
    where: HubSplit, options: ReadOptions, n: int | None, seed: int, name: str | None = None
) -> RecordSource:
    """Open a split; a sample of a large one is streamed.

    Args:
        where: the split.
        options: how its columns are read.
        n: at most this many records, chosen by ``seed``.
        seed: selects the sample.
        name: what the user called it.

    Raises:
        InputError: The Hub cannot be reached, or has no such data set, configuration or split; or
            the data cannot be read as records.
        MissingExtraError: ``datasets`` is not installed.
    """
    library = _library(str(where))
    name = name or str(where)
    with _one_line(library, where):
        builder = library.load_dataset_builder(where.repo, where.config)
        files = builder.config.data_files
        if files is None:
            found = library.load_dataset(where.repo, where.config, split=where.split)
            return _sampled(_records(found, name, options), n, seed)
        if where.split not in files:
            raise InputError(
                f"{where}: there is no split {where.split!r} (splits: {', '.join(files)})"
            )
        # The library would prepare every split, and download all of them for that.
        wanted = {"data_files": {where.split: files[where.split]}, "split": where.split}
        size = builder.info.download_size or 0
        info = (builder.info.splits or {}).get(where.split)
        if n is not None and size > STREAM_ABOVE and info is not None and info.num_examples:
            stream = library.load_dataset(builder.name, streaming=True, **wanted)
            indices = sample_indices(info.num_examples, n, seed)
            return _records(_chosen(library, stream, indices), name, options)
        found = library.load_dataset(builder.name, **wanted)
    return _sampled(_records(found, name, options), n, seed)


def dataset_records(dataset: Any, options: ReadOptions, n: int | None, seed: int) -> RecordSource:
    """Open a ``datasets.Dataset``, or ``n`` records of a ``datasets.IterableDataset``.

    Raises:
        InputError: It is another object of that library, a stream without ``n``, or it cannot be
            read as records.
    """
    library = _library("a Dataset")
    if isinstance(dataset, library.IterableDataset):
        if n is None:
            raise InputError("a streamed dataset has no length: give n, the number of records")
        # Of a stream of unknown length no fair sample can be drawn: the first are taken.
        dataset = _chosen(library, dataset, range(n))
    elif isinstance(dataset, library.Dataset):
        pass
    elif isinstance(dataset, dict):
        splits = ", ".join(map(str, dataset))
        raise InputError(f"expected one split of a dataset, not all of them: choose of {splits}")
    else:
        raise InputError(f"expected a Dataset, not {type(dataset).__name__}")
    name = ":".join(
        filter(None, (dataset.info.dataset_name or "dataset", str(dataset.split or "")))
    )
    return _sampled(_records(dataset, name, options), n, seed)


class DatasetTable(Table):
    """The rows of a ``datasets.Dataset``, images as they are stored.

    Args:
        dataset: the data set.
        name: what the user called it.
    """

    scans_images = False

    def __init__(self, dataset: datasets.Dataset, name: str) -> None:
        self.name = name
        # As Arrow data, images are the structs that are stored, and not decoded.
        self._dataset = dataset.with_format("arrow")

    def scan(self, fields: Fields) -> Iterator[Row | str]:
        """Go through the rows without images, and without columns that hold no field."""
        check_schema(self._dataset.features.arrow_schema, fields, self.name)
        texts = text_columns(self._dataset.column_names, fields)
        for batch in self._dataset.select_columns(texts).iter(TEXT_ROWS):
            yield from batch_rows(batch)

    def row(self, position: int) -> Row | str:
        """Read a row with its images."""
        (row,) = batch_rows(self._dataset[position : position + 1])
        return row

    def where(self, position: int) -> str:
        """Name and row."""
        return f"{self.name}: row {position}"

    def folder(self, position: int) -> Path:
        """The working folder: stored paths are absolute."""
        return Path()

    def columns(self) -> list[str]:
        """Those of the data set."""
        return list(self._dataset.column_names)

    @property
    def fingerprint(self) -> str:
        """Nothing: the fields say enough, and hashing all images would take minutes."""
        return ""


def _records(dataset: Any, name: str, options: ReadOptions) -> TableRecords:
    if not len(dataset):
        raise InputError(f"{name}: holds no records")
    return TableRecords(DatasetTable(dataset, name), options)


def _sampled(records: RecordSource, n: int | None, seed: int) -> RecordSource:
    return records if n is None or n >= len(records) else SampledRecords(records, n, seed)


def _chosen(library: Any, stream: Any, indices: Any) -> Any:
    """Those rows of a stream, in memory; the others are passed over, images undecoded."""
    import pyarrow as pa

    wanted = set(indices)
    kept, start = [], 0
    for table in stream.with_format("arrow").iter(STREAM_ROWS):
        rows = [i for i in range(table.num_rows) if start + i in wanted]
        if rows:
            kept.append(table.take(pa.array(rows)))
        start += table.num_rows
        if start > max(wanted):
            break
    if not kept:
        raise InputError("the streamed dataset holds no records")
    return library.Dataset(library.table.InMemoryTable(pa.concat_tables(kept)))


def _library(what: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(what, "data") from error
    return datasets


@contextmanager
def _one_line(library: Any, where: HubSplit) -> Iterator[None]:
    """Turn what the library raises into one line, and keep its own lines quiet.

    Raises:
        InputError: Names the data set, and how to use a copy where the Hub cannot be reached.
    """
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    except InputError:
        raise
    except ConnectionError as error:
        raise InputError(
            f"{where}: the Hub cannot be reached ({error}): on a machine that can, run "
            f"hf download {where.repo} --repo-type dataset --local-dir DIR, and give the copy: "
            f"NAME=DIR for a registered data set, else {HUB_PREFIX}DIR:SPLIT"
        ) from error
    except (library.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: cannot be loaded: {error}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

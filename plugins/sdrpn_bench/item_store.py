"""Per-item results in ``items.jsonl``: appended batch by batch, so that a killed run goes on.

Every process of a run appends to a file of its own; the last step merges them into ``items.jsonl``.
A line that a kill has torn is the last one of its file, and is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdrpn_bench.run_config import CONFIG, RESULTS_NAME, require_same_run
from sdrpn_core.errors import ConfigError, InputError, SdrpnError
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_core.util.dataclass_reader import read_dataclass
from sdrpn_core.util.json_files import parse_json_object

ITEMS_NAME = "items.jsonl"
_ITEM_FILES = "items*.jsonl"

Row = dict[str, Any]
"""``model``, ``fingerprint``, ``index``, ``id``, and either ``methods`` or ``error``."""


@dataclass(frozen=True)
class _MethodResult:
    """What a method gave for an item, as it is checked; see :mod:`sdrpn_bench.measure`."""

    score: float
    outcome: str
    seconds: float
    cost: Mapping[str, float | None] = field(default_factory=dict)
    text: str = ""
    counts: Mapping[str, float] = field(default_factory=dict)
    visual_tokens: int = 0
    stages: Mapping[str, float] = field(default_factory=dict)
    boxes: Sequence[Sequence[int]] = ()
    crop_hit: bool = False
    map_hit: bool = False
    gate: float | None = None
    confidence: float | None = None
    error: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ConfigError(f"the score must be from 0 to 1, not {self.score}")


@dataclass(frozen=True)
class _ItemRow:
    """A row, as it is checked."""

    model: str
    fingerprint: str
    index: int
    id: str
    question: str = ""
    answers: Sequence[str] = ()
    images: Sequence[str] = ()
    category: str | None = None
    regions: int | None = None
    object_size: float | None = None
    methods: Mapping[str, _MethodResult] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None

    def __post_init__(self) -> None:
        if self.index < 0 or (self.methods is None) == (self.error is None):
            raise ConfigError("needs an index from 0 up, and either methods or an error")


class ItemStore:
    """The item results of one run in a folder.

    Args:
        folder: the run's folder; created if missing.
        process_index: which process of the run this is.
    """

    def __init__(self, folder: Path, process_index: int = 0) -> None:
        self.folder = folder
        own = ITEMS_NAME if process_index == 0 else f"items-{process_index:05d}.jsonl"
        self._own = folder / own
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SdrpnError(f"cannot create the folder {folder}: {error.strerror}") from error

    def clear(self) -> None:
        """Forget an earlier run."""
        names = (CONFIG.name, RESULTS_NAME)
        for path in (*self.folder.glob(_ITEM_FILES), *(self.folder / name for name in names)):
            path.unlink(missing_ok=True)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the run's settings, or check that they are those of the run to go on with.

        Settings of a run that never answered anything are replaced: there is nothing to lose.

        Raises:
            ConfigError: the folder holds a run with other settings; names those that differ.
        """
        exists = CONFIG.exists(self.folder)
        if not exists and any(self.folder.glob(_ITEM_FILES)):
            raise ConfigError(
                f"{self.folder} holds item results, but no {CONFIG.name}: {CONFIG.remedy}"
            )
        if exists and self.read():
            require_same_run(self.folder, config)
        else:
            CONFIG.write(self.folder, config)

    def read(self) -> list[Row]:
        """All rows of all processes, in order of model and item.

        Raises:
            InputError: a line that is no row, other than a torn last one.
        """
        rows: dict[tuple[str, int], Row] = {}
        for path in sorted(self.folder.glob(_ITEM_FILES)):
            for row in _read_rows(path):
                rows.setdefault((row["model"], row["index"]), row)
        return [rows[key] for key in sorted(rows)]

    def append(self, rows: Iterable[Row]) -> None:
        """Append the rows of a batch in one write, flushed to the disk.

        Raises:
            SdrpnError: the disk is full, or the file cannot be written.
        """
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        try:
            _drop_torn_line(self._own)
            with self._own.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SdrpnError(f"cannot write {self._own}: {error.strerror or error}") from error

    def merge(self) -> None:
        """Gather the rows of all processes in ``items.jsonl``, in order."""
        data = "".join(json.dumps(row) + "\n" for row in self.read()).encode()
        with atomic_write(self.folder / ITEMS_NAME) as file:
            file.write(data)
        for path in self.folder.glob(_ITEM_FILES):
            if path.name != ITEMS_NAME:
                path.unlink()


def _read_rows(path: Path) -> list[Row]:
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is empty or torn
        where = f"{path}: line {number}"
        try:
            row = parse_json_object(line.decode(), where)
            read_dataclass(_ItemRow, row, where)
        except (ConfigError, UnicodeDecodeError) as error:
            reason = str(error).removeprefix(f"{where}: ")
            raise InputError(f"{where} is not an item result: {reason}") from error
        rows.append(row)
    return rows


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)

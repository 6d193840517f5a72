"""Results of a benchmark as a JSONL file: a line about the run, then the rows as printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdrpn_core.util.atomic_files import atomic_write

Row = Mapping[str, Any]

RESULTS = "results"


@dataclass(frozen=True)
class RunFacts:
    """When, how and on what a benchmark ran.

    Attributes:
        started: UTC, ISO 8601.
        quick: with sizes that only show that it works.
        seconds: that it took.
        machine: names and values.
    """

    started: str
    quick: bool
    seconds: float
    machine: Mapping[str, str]


@dataclass(frozen=True)
class Result:
    """What a benchmark printed, and the facts about that run: one file, so they belong together."""

    facts: RunFacts
    rows: Sequence[Row]


def result_path(folder: Path, name: str) -> Path:
    """Where the results of a script are kept, below the folder of the page."""
    return folder / RESULTS / f"{name}.jsonl"


def write_result(path: Path, result: Result) -> None:
    """Write the file, in one step."""
    lines = [{"run": asdict(result.facts)}, *result.rows]
    with atomic_write(path) as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines).encode())


def read_result(path: Path) -> Result | None:
    """What :func:`write_result` wrote; ``None`` if there is no file."""
    if not path.is_file():
        return None
    first, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return Result(RunFacts(**first["run"]), rows)

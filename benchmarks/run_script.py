"""One benchmark in a process of its own: its rows, and the plot that it draws."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from result_files import Result, Row, RunFacts
from suite import Script


class ScriptFailed(Exception):
    """A benchmark ended with an error, or printed something else than rows."""


def run_script(script: Script, *, quick: bool, machine: Mapping[str, str], plots: Path) -> Result:
    """Run a benchmark.

    Args:
        script: which.
        quick: with quick sizes.
        machine: what it runs on.
        plots: folder that gets the plot, once the script has ended well.

    Raises:
        ScriptFailed: with what the script wrote to stderr.
    """
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    clock = time.perf_counter()
    with tempfile.TemporaryDirectory() as drawn:
        words = [sys.executable, str(script.path)]
        words += ["--quick"] if quick else []
        words += ["--out", drawn] if script.plot else []
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - clock
        if ended.returncode:
            raise ScriptFailed(f"exit status {ended.returncode}\n{ended.stderr}")
        rows = _rows(ended.stdout)
        if script.plot:
            _keep(Path(drawn) / script.plot, plots)
    return Result(RunFacts(started, quick, round(seconds, 1), machine), rows)


def _rows(printed: str) -> list[Row]:
    try:
        rows = [json.loads(line) for line in printed.splitlines()]
    except json.JSONDecodeError as error:
        raise ScriptFailed(f"printed a line that is not JSON: {error.doc[:200]!r}") from None
    if not all(isinstance(row, dict) and "benchmark" in row for row in rows):
        raise ScriptFailed("printed a row that does not say of which benchmark it is")
    if not rows:
        raise ScriptFailed("printed no rows")
    return rows


def _keep(plot: Path, folder: Path) -> None:
    if not plot.is_file():
        raise ScriptFailed(f"did not draw {plot.name}")
    shutil.copyfile(plot, folder / plot.name)

"""Hostile invocations of ``sdrpn``: options, and files that somebody has edited.

Each one must be refused in a line, or give what it gives without the edit. Run as a program, this
prints how many were: ``python -m tests.faults.hostile_commands [PART OF A NAME]``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from sdrpn_core.cli.main import app
from tests.faults.hostile_cases import BENCH, HEADS, LABEL, TRAIN, Case, all_cases
from tests.faults.hostile_edits import tensors

LONGEST = 120  # seconds of one invocation, on a machine that others use
MOST_LINES = {1: 4, 2: 12}  # of stderr, by exit code: warnings beside the error; a usage box
MOST_CHARACTERS = 5000


@dataclass(frozen=True)
class Outcome:
    """What an invocation did.

    Attributes:
        kind: ``refused`` (one line, exit code 1), ``usage`` (exit code 2), ``same`` or ``success``
            are right where the case allows them; ``traceback``, ``silent``, ``wordy`` and ``late``
            never are.
        detail: the error's line, or what was wrong.
    """

    kind: str
    detail: str
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether nobody could complain."""
        return self.kind in ("refused", "usage", "same", "success")


def build_workspace(folder: Path) -> None:
    """Fill a folder through the program itself."""
    from sdrpn_glyphs import backbone_dir, rpn_dir

    shutil.copytree(backbone_dir("llava"), folder / "model")
    shutil.copytree(rpn_dir("llava"), folder / "rpn")
    # As an earlier version left it, without the checksums by which any edit is noticed.
    shutil.copytree(rpn_dir("llava"), folder / "old")
    tensors("old/model.safetensors", lambda found: found)(folder)
    run(("glyphs", "{w}/data", "--n", "6", "--split", "glyphs/train"), folder)
    (found,) = (folder / "data").glob("*.jsonl")
    found.rename(folder / "data" / "questions.jsonl")
    image = json.loads((folder / "data" / "questions.jsonl").read_text().splitlines()[0])["image"]
    shutil.copy(folder / "data" / image, folder / "image.png")
    for words in (LABEL, TRAIN, BENCH, HEADS):
        code, out, err, error = run(words, folder)
        assert code == 0, (words, out, err, error)


def run(words: tuple[str, ...], folder: Path) -> tuple[int, str, str, BaseException | None]:
    """Exit code, stdout, stderr, and what was raised beside an exit."""
    given = [word.replace("{w}", str(folder)) for word in words]
    result = CliRunner().invoke(app, given, prog_name="sdrpn")
    raised = result.exception
    return (
        result.exit_code,
        result.stdout,
        result.stderr,
        None if isinstance(raised, SystemExit) else raised,
    )


class TooLateError(BaseException):
    """An invocation took longer than it may."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """End what takes longer."""

    def end(signum: int, frame: Any) -> None:
        raise TooLateError

    previous = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def copied(workspace: Path, folder: Path) -> Path:
    """A copy whose files are links: an edit replaces the file, and leaves the workspace alone."""
    return Path(shutil.copytree(workspace, folder, copy_function=os.link, dirs_exist_ok=True))


def judge(case: Case, workspace: Path, folder: Path) -> Outcome:
    """Carry out a case in an empty folder."""
    copied(workspace, folder)
    if case.edit is not None:
        case.edit(folder)
    start = time.monotonic()
    try:
        with limited(LONGEST):
            code, out, err, raised = run(case.words, folder)
    except TooLateError:
        return Outcome("late", f"longer than {LONGEST} s", LONGEST)
    seconds = time.monotonic() - start
    lines = err.strip().splitlines()
    last = lines[-1] if lines else ""
    if raised is not None or "Traceback" in err + out:
        return Outcome("traceback", f"{type(raised).__name__}: {raised}"[:300], seconds)
    if code == 0:
        if case.allows == "success":
            return Outcome("success", out[:80], seconds)
        if case.allows == "same" and unchanged(out, folder) == expected(case.words, workspace):
            return Outcome("same", "", seconds)
        return Outcome("silent", out[:200], seconds)
    kind = {1: "refused", 2: "usage"}.get(code)
    if kind is None:
        return Outcome("traceback", f"exit code {code}: {last}", seconds)
    if len(lines) > MOST_LINES[code] or len(err) > MOST_CHARACTERS:
        return Outcome("wordy", f"{len(lines)} lines, {len(err)} characters: {last[:200]}", seconds)
    if not last or (code == 1 and not last.startswith("error: ")):
        return Outcome("silent", f"exit code {code}, and no word why: {err[-200:]}", seconds)
    return Outcome(kind, last, seconds)


@functools.cache
def expected(words: tuple[str, ...], workspace: Path) -> str:
    """What a command prints where nothing was edited."""
    with tempfile.TemporaryDirectory() as there:
        folder = copied(workspace, Path(there))
        return unchanged(run(words, folder)[1], folder)


def unchanged(out: str, folder: Path) -> str:
    """Output less what differs from run to run: memory, and the folder."""
    out = out.replace(str(folder), "")
    try:
        values = json.loads(out)
    except ValueError:
        return out
    if isinstance(values, dict):
        values.pop("peak_memory_bytes", None)
    return json.dumps(values)


def main() -> None:
    """Print the figures, and what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", default="", help="of the names of the cases to run")
    parser.add_argument("--every", type=int, default=1, help="run each n-th of them only")
    chosen = parser.parse_args()
    cases = [case for case in all_cases() if chosen.part in case.name][:: chosen.every]
    figures: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as root:
        workspace = Path(root) / "workspace"
        workspace.mkdir()
        build_workspace(workspace)
        for index, case in enumerate(cases):
            folder = Path(root) / str(index)
            outcome = judge(case, workspace, folder)
            shutil.rmtree(folder)
            figures[outcome.kind] += 1
            slowest = max(slowest, outcome.seconds)
            if not outcome.is_right:
                print(f"{outcome.kind}: {case.name}: {outcome.detail}", flush=True)
    print(f"{len(cases)} invocations, slowest {slowest:.1f} s: {dict(figures)}")


if __name__ == "__main__":
    main()

"""Runs that are ended from outside, at any moment, and must end up where an undisturbed one does.

``python -m tests.faults.kills --kills 100`` prints its figures as JSON and exits with 1 if anything
was lost, doubled or different. Commands run in children forked from a process that has imported
torch already, as importing it takes longer than they do; those that are to be killed at start-up
are processes of their own. The parent computes nothing, so that a fork of it is a fresh process.
"""

from __future__ import annotations

import argparse
import codecs
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdrpn_core.util.folder_lock import LOCK_NAME, OWNER_NAME

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOMENT_WEIGHTS = {"start": 1, "write": 4, "time": 5}
MOMENTS = tuple(MOMENT_WEIGHTS)
#: Imported before anything forks.
WARM = (
    "sdrpn_bench.runner",
    "sdrpn_core.answering.stream",
    "sdrpn_core.head_finding.figure",
    "sdrpn_core.head_finding.finder",
    "sdrpn_core.training.stage",
)
#: Functions at which a child ends itself, so that kills hit the few milliseconds of a write.
WRITES = ("fsync", "replace")
MAX_SECONDS = 120.0
#: Seconds from a signal to the end of a run that was about to end anyway.
SLOWEST_END = 1.5
#: Exit code of a command that Ctrl-C ended.
INTERRUPTED = 130
DEFECT = 70
NOBODY = 65534
SMALLEST_FILE = 1_000
"""Bytes that any file may have where the disk is full: less than a shard, weights or a figure."""


@dataclass(frozen=True)
class Kill:
    """How a run ends.

    Attributes:
        signal: what it is sent.
        moment: ``start``: within the first seconds of a new process; ``write``: at the n-th call of
            a function that writes; ``time``: anywhere in a run's usual time.
        at: seconds, the number of the call, or the share of the usual time.
        function: of ``os``, for ``write``.
    """

    signal: signal.Signals
    moment: str
    at: float
    function: str = ""


@dataclass(frozen=True)
class Ended:
    """What became of a run.

    Attributes:
        code: exit code; negative: the signal.
        errors: standard output and error.
        seconds: how long it took.
        afterwards: seconds from the signal to the end; 0 without a signal.
    """

    code: int
    errors: str
    seconds: float
    afterwards: float = 0.0


@dataclass(frozen=True)
class Command:
    """A command, and what of its folder must be the same however often it was interrupted.

    Attributes:
        words: of the command line, for an output folder.
        result: of the output folder, by name what is equal for equal runs.
    """

    words: Callable[[Path], list[str]]
    result: Callable[[Path], dict[str, object]]


@dataclass
class Figures:
    """What a campaign has seen."""

    kills: int = 0
    by: Counter[str] = field(default_factory=Counter)
    survived: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    different: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, left behind, or reported as a defect."""
        return not (self.different or self.tracebacks or self.ignored or self.leftovers)


def run(words: list[str], kill: Kill | None = None, usual: float = 0.0, **limits: Any) -> Ended:
    """Run a command, and end it as ``kill`` says.

    Args:
        words: of the command line.
        kill: ``None``: leave it alone.
        usual: seconds that it takes undisturbed.
        limits: of :func:`_child`.
    """
    with tempfile.TemporaryFile("w+") as log:
        began = time.monotonic()
        if kill is not None and kill.moment == "start":
            line = [sys.executable, "-m", "sdrpn_core", *words]
            with subprocess.Popen(
                line, stdout=log, stderr=log, preexec_fn=_heed_interrupts
            ) as process:
                time.sleep(kill.at)
                process.send_signal(kill.signal)
                sent = time.monotonic()
                code = process.wait(timeout=MAX_SECONDS)
                afterwards = time.monotonic() - sent
        else:
            pid = os.fork()
            if not pid:
                _child(words, kill, log.fileno(), **limits)
            code, afterwards = _watch(pid, kill, usual)
        seconds = time.monotonic() - began
        log.seek(0)
        return Ended(code, log.read(), seconds, afterwards)


def _heed_interrupts() -> None:
    """As started from a terminal: what runs in the background is told to ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _watch(pid: int, kill: Kill | None, usual: float) -> tuple[int, float]:
    """Wait for a child, which is sent its signal when the time has come."""
    due = time.monotonic() + kill.at * usual if kill and kill.moment == "time" else None
    deadline = time.monotonic() + MAX_SECONDS
    sent = None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            afterwards = 0.0 if sent is None else time.monotonic() - sent
            return os.waitstatus_to_exitcode(status), afterwards
        now = time.monotonic()
        if due is not None and kill is not None and now >= due:
            os.kill(pid, kill.signal)
            due, sent = None, now
        if now > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _child(
    words: list[str],
    kill: Kill | None,
    log: int,
    *,
    largest_file: int | None = None,
    as_nobody: bool = False,
) -> None:
    """Be the command; never returns.

    Args:
        words: of the command line.
        kill: arms a write.
        log: file descriptor that takes what is printed.
        largest_file: bytes that a file may have, as if the disk were full.
        as_nobody: give up the rights of root, to whom every folder is writable.
    """
    code = DEFECT
    try:
        for number in (1, 2):
            os.dup2(log, number)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        if as_nobody and os.geteuid() == 0:
            os.setuid(NOBODY)
        if kill is not None and kill.moment == "write":
            _arm(kill)
        from sdrpn_core.cli.main import main

        main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:  # noqa: BLE001  # to be seen, as the interpreter would show it
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _arm(kill: Kill) -> None:
    original = getattr(os, kill.function)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == kill.at:
            os.kill(os.getpid(), kill.signal)
        return original(*args, **kwargs)

    setattr(os, kill.function, deadly)


def draw_kill(
    draw: random.Random, signals: Sequence[signal.Signals], moments: Sequence[str] = MOMENTS
) -> Kill:
    """A kill at some moment by some signal, drawn from those that are given."""
    weights = [MOMENT_WEIGHTS[moment] for moment in moments]
    moment = draw.choices(moments, weights)[0]
    chosen = draw.choice(signals)
    if moment == "start":
        return Kill(chosen, moment, draw.uniform(0.0, 3.0))
    if moment == "write":
        return Kill(chosen, moment, draw.randint(1, 6), draw.choice(WRITES))
    return Kill(chosen, moment, draw.random())


def interrupt(
    name: str,
    command: Command,
    folder: Path,
    kills: list[Kill],
    figures: Figures,
    expected: dict[str, object],
    usual: float,
) -> None:
    """Run one command, ended by one kill after the other, until it is through; compare."""
    out = folder / f"{name}-{figures.runs[name]}"
    figures.runs[name] += 1
    words = command.words(out)
    for kill in kills:
        ended = run(words, kill, usual)
        if "Traceback" in ended.errors and not _before_the_program(kill, ended):
            figures.tracebacks.append(f"{name} {kill}: {ended.errors[-2000:]}")
        if ended.code in (-kill.signal, INTERRUPTED) or _before_the_program(kill, ended):
            figures.kills += 1
            figures.by[f"{name} {kill.signal.name} {kill.moment}"] += 1
        elif ended.code == 0:
            figures.survived += 1
            if ended.afterwards > SLOWEST_END:
                figures.ignored.append(f"{name} {kill}: went on for {ended.afterwards:.1f} s")
            break
        elif kill.moment == "start" and "Traceback" not in ended.errors:
            figures.survived += 1
        else:
            figures.different.append(f"{name} {kill}: exit {ended.code}: {ended.errors[-500:]}")
    ended = run(words)
    if ended.code != 0:
        figures.different.append(f"{name} does not finish after {kills}: {ended.errors[-500:]}")
    elif differing := _differing(command.result(out), expected):
        figures.different.append(f"{name} differs in {differing} after {kills}")
    hidden = (path for path in out.rglob(".*") if path.name not in (LOCK_NAME, OWNER_NAME))
    figures.leftovers += [str(path.relative_to(folder)) for path in hidden]
    shutil.rmtree(out, ignore_errors=True)


def _before_the_program(kill: Kill, ended: Ended) -> bool:
    """Whether Ctrl-C met the interpreter while it imported, before a command could handle it."""
    at_start = kill.moment == "start" and kill.signal == signal.SIGINT
    return at_start and ended.errors.rstrip().endswith("KeyboardInterrupt")


def _differing(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    return [key for key in {**found, **expected} if found.get(key) != expected.get(key)]


def refuse(
    name: str, command: Command, folder: Path, figures: Figures, expected: dict[str, object]
) -> None:
    """A full disk and a folder that may not be written to: one line, and nothing lost."""
    full = folder / f"{name}-full"
    words = command.words(full)
    ended = run(words, largest_file=SMALLEST_FILE)
    _one_line(name, "full disk", ended, figures)
    if (ended := run(words)).code != 0 or command.result(full) != expected:
        figures.different.append(f"{name} after a full disk: {ended.errors[-500:]}")
    closed = folder / f"{name}-closed"
    closed.mkdir()
    closed.chmod(0o555)
    ended = run(command.words(closed / "out"), as_nobody=True)
    _one_line(name, "read-only folder", ended, figures)


def _one_line(name: str, what: str, ended: Ended, figures: Figures) -> None:
    errors = [line for line in ended.errors.splitlines() if line.startswith("error")]
    if ended.code == 1 and len(errors) == 1 and "Traceback" not in ended.errors:
        figures.refused[what] += 1
    else:
        figures.different.append(f"{name}, {what}: exit {ended.code}: {ended.errors[-500:]}")


def campaign(
    n_kills: int,
    seed: int,
    names: list[str],
    folder: Path,
    signals: Sequence[signal.Signals] = SIGNALS,
    moments: Sequence[str] = MOMENTS,
) -> Figures:
    """Interrupt runs until ``n_kills`` of them have died.

    Args:
        n_kills: at least this many.
        seed: of the kills.
        names: the commands, which take turns.
        folder: for everything that they write.
        signals: what ends the runs.
        moments: when.
    """
    from tests.faults.kill_commands import commands

    draw = random.Random(seed)
    figures = Figures()
    known = commands(folder / "shared", lambda words: run(words))
    expected, usual = {}, {}
    for name in names:
        out = folder / f"{name}-undisturbed"
        ended = run(known[name].words(out))
        if ended.code != 0:
            raise SystemExit(f"{name} fails undisturbed: {ended.errors}")
        expected[name], usual[name] = known[name].result(out), ended.seconds
    for name in names:
        refuse(name, known[name], folder, figures, expected[name])
    while figures.kills < n_kills:
        name = names[sum(figures.runs.values()) % len(names)]
        kills = [draw_kill(draw, signals, moments) for _ in range(draw.randint(1, 5))]
        interrupt(name, known[name], folder, kills, figures, expected[name], usual[name])
    return figures


def main() -> int:
    """Run a campaign and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default="label,train,bench,heads")
    parser.add_argument("--signals", default="KILL,TERM,INT")
    parser.add_argument("--moments", default=",".join(MOMENTS))
    options = parser.parse_args()
    signals = [signal.Signals[f"SIG{name}"] for name in options.signals.split(",")]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    codecs.lookup("unicode-escape")  # a child without rights could not load it later
    for name in WARM:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        names = options.commands.split(",")
        figures = campaign(
            options.kills, options.seed, names, Path(folder), signals, options.moments.split(",")
        )
    print(json.dumps({**vars(figures), "clean": figures.is_clean}, indent=2))
    return 0 if figures.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())

"""Cases measured side by side: times in turns within one process, peak memory in one of its own."""

from __future__ import annotations

import json
import multiprocessing
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdrpn_core.util.memory import peak_memory

_CPU = torch.device("cpu")
_PROCESS = Path("/proc/self")
_RESIDENT = re.compile(r"^VmRSS:\s*(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Times:
    """Seconds of cases that were measured in turns.

    Attributes:
        seconds: per case, one value per round.
    """

    seconds: Mapping[str, Sequence[float]]

    def median(self, case: str) -> float:
        """Median seconds of a case."""
        return statistics.median(self.seconds[case])

    def ratio(self, case: str, to: str) -> float:
        """Median over the rounds of the ratio within a round: a slow minute slows both cases."""
        return statistics.median(self._ratios(case, to))

    def spread(self, case: str, to: str) -> str:
        """The quartiles between which half of these ratios lie, in words."""
        ratios = self._ratios(case, to)
        if len(ratios) == 1:
            return "one round"
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return f"{low:.2f} to {high:.2f}"

    def _ratios(self, case: str, to: str) -> list[float]:
        pairs = zip(self.seconds[case], self.seconds[to], strict=True)
        return [one / other for one, other in pairs]


def in_turns(
    cases: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: bool = True
) -> Times:
    """Time cases alternately, each round in another order, the same in every run.

    What a case leaves behind (in caches, in the allocator) falls to the next one, and no case
    should always be that of the same other.

    Args:
        cases: by name, what to run.
        rounds: how often.
        warm_up: run each once more beforehand, as the first run allocates; not needed where every
            case has run already.
    """
    if warm_up:
        for run in cases.values():
            run()
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    draw = random.Random(0)
    for _ in range(rounds):
        for case in draw.sample(list(cases), len(cases)):
            start = time.perf_counter()
            cases[case]()
            seconds[case].append(time.perf_counter() - start)
    return Times(seconds)


@dataclass(frozen=True)
class Memory:
    """Peak memory of a process that did one thing, in bytes.

    Attributes:
        peak: beyond what the process had after its imports.
        working: beyond what it had before the thing that was measured.
    """

    peak: int
    working: int


def in_fork(run: Callable[[], Any]) -> Any:
    """What a function returns in a process forked from this one, which starts without imports.

    To be called before this process has computed anything: its thread pools would not survive.

    Args:
        run: returns something that pickles.

    Raises:
        RuntimeError: the process failed; its traceback is on stderr.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(run()))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError("a process of the benchmark failed") from None
    finally:
        process.join()


def peak_memory_of(prepare: Callable[[], Callable[[], object]]) -> Memory:
    """Peak memory of one case, in a process of its own (see :func:`in_fork`).

    A forked process has to touch the libraries' files again, and that counts: some 30 MB for a
    training step, much the same for every case.

    Args:
        prepare: loads, and returns what is measured.
    """

    def measure() -> Memory:
        imported = _resident()
        run = prepare()
        before = _resident()
        # Loading may have needed more for a moment than what follows.
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")
        run()
        peak = peak_memory(_CPU) or 0
        return Memory(peak - imported, peak - before)

    return in_fork(measure)


def noise_images(n: int, size: tuple[int, int], seed: int = 0) -> list[Image.Image]:
    """Different images of noise, ``size`` (width, height)."""
    draw = np.random.default_rng(seed)
    width, height = size
    return [
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(n)
    ]


def question_of(n_words: int) -> str:
    """A question of so many words, which the random models take for as many tokens."""
    return " ".join(["word"] * n_words)


def print_row(benchmark: str, **values: Any) -> None:
    """One JSON line; floats are rounded to four digits."""
    row: dict[str, Any] = {"benchmark": benchmark}
    for key, value in values.items():
        row[key] = float(f"{value:.4g}") if isinstance(value, float) else value
    print(json.dumps(row), flush=True)


def _resident() -> int:
    found = _RESIDENT.search((_PROCESS / "status").read_text(encoding="ascii"))
    return int(found[1]) * 1024 if found else 0

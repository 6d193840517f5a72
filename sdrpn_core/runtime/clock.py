"""Wall time per stage, visible to ``torch.profiler`` under the same names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

#: The stages of an answer, in order. A plain answer has ``prefill`` instead of all those between
#: ``vision`` and ``decode``.
ANSWER_STAGES = (
    "vision", "prefill", "prefix", "question", "proposal", "crop", "roi_prefill", "decode",
)  # fmt: skip


_synchronized: ContextVar[bool] = ContextVar("synchronized_stages", default=False)


@contextmanager
def synchronized_stages() -> Iterator[None]:
    """Let clocks that begin within the block wait for the device at the end of every stage.

    For benchmarks on an accelerator: without it, kernels that are still queued when a stage ends
    count for the later stage that first waits for them. Waiting costs time itself: the device then
    has nothing to do while the next stage is being prepared.
    """
    token = _synchronized.set(True)
    try:
        yield
    finally:
        _synchronized.reset(token)


class StageClock:
    """Accumulates seconds per stage. Stages nest: time in an inner stage is not the outer one's.

    The seconds are those of the calling thread; it waits for the device only where results are
    read, unless the clock begins within :func:`synchronized_stages`.

    Args:
        device: where the work runs.

    Attributes:
        seconds: by stage, in the order in which the stages began.
    """

    def __init__(self, device: torch.device) -> None:
        self._waits_for = device if _synchronized.get() and device.type == "cuda" else None
        self.seconds: dict[str, float] = {}
        self._open: list[tuple[str, torch.profiler.record_function]] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block under a name; several blocks of one name add up."""
        self._book()
        self._begin(name)
        try:
            yield
        finally:
            self._book()
            self._end()

    def switch(self, name: str) -> None:
        """End the innermost stage and begin another in its place."""
        self._book()
        self._end()
        self._begin(name)

    def shares(self, n: int) -> dict[str, float]:
        """The seconds of a batch, divided equally among its ``n`` members."""
        return {name: seconds / n for name, seconds in self.seconds.items()}

    def _begin(self, name: str) -> None:
        self.seconds.setdefault(name, 0.0)
        profiled = torch.profiler.record_function(f"sdrpn.{name}")
        profiled.__enter__()
        self._open.append((name, profiled))

    def _end(self) -> None:
        _, profiled = self._open.pop()
        profiled.__exit__(None, None, None)

    def _book(self) -> None:
        """Add the time since the last change to the innermost stage."""
        if self._waits_for is not None and self._open:
            torch.cuda.synchronize(self._waits_for)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1][0]] += now - self._since
        self._since = now

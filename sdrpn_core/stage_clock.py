"""Wall time per stage, visible to ``torch.profiler`` under the same names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageClock:
    """Adds up seconds per stage.

    Args:
        device: where the work runs; on CUDA every stage ends with a synchronisation, or the time
            of queued kernels would be booked to a later stage.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block under a name; several blocks of one name add up."""
        start = time.perf_counter()
        with torch.profiler.record_function(f"sdrpn.{name}"):
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

"""What a method runs, whatever it does: token-layers, passes, seconds and memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sdrpn_core.answering.token_layers import TokenLayerCounter
from sdrpn_core.util.memory import peak_memory, reset_peak_memory

if TYPE_CHECKING:
    from sdrpn_bench.method import MethodContext


@dataclass(frozen=True)
class Cost:
    """The cost of one answer: its share of what was run for its batch.

    One token-layer is one token going through one decoder layer; padding counts as well, and so do
    the layers of an RPN.

    Attributes:
        seconds: wall time.
        token_layers: forward, of the decoder and of an RPN's trunk.
        backward_token_layers: backward, where a method takes gradients.
        passes: sequences that went through the decoder, or its first layers; steps of decoding are
            left out.
        peak_memory: bytes, the most that was in use while the batch was answered (not a share);
            ``None`` where the system does not tell. See :func:`~sdrpn_core.util.memory.peak_memory`
            for what is counted.
    """

    seconds: float = 0.0
    token_layers: float = 0.0
    backward_token_layers: float = 0.0
    passes: float = 0.0
    peak_memory: int | None = None

    def __add__(self, other: Cost) -> Cost:
        peaks = [peak for peak in (self.peak_memory, other.peak_memory) if peak is not None]
        return Cost(
            self.seconds + other.seconds,
            self.token_layers + other.token_layers,
            self.backward_token_layers + other.backward_token_layers,
            self.passes + other.passes,
            max(peaks, default=None),
        )

    def to_dict(self) -> dict[str, Any]:
        """All but the seconds, as plain JSON values."""
        return {
            "token_layers": self.token_layers,
            "backward_token_layers": self.backward_token_layers,
            "passes": self.passes,
            "peak_memory": self.peak_memory,
        }


class CostMeter:
    """Context manager that measures what its thread runs for a batch.

    Args:
        context: the model under test.
        batch: what is answered; the cost is divided by how many they are.
    """

    def __init__(self, context: MethodContext, batch: Sequence[Any]) -> None:
        self._device = context.backbone.device
        self._counter = TokenLayerCounter(context.backbone, context.rpn)
        self._n = len(batch)
        self._peak: int | None = None
        self._seconds = 0.0

    def __enter__(self) -> CostMeter:
        self._counted_anew = reset_peak_memory(self._device)
        self._counter.__enter__()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._seconds = time.perf_counter() - self._start
        self._counter.__exit__(exc_type, exc, traceback)
        if self._counted_anew:
            self._peak = peak_memory(self._device)

    @property
    def share(self) -> Cost:
        """The cost of one member of the batch, once the block has ended."""
        counter = self._counter
        return Cost(
            self._seconds / self._n,
            (counter.token_layers + counter.rpn_token_layers) / self._n,
            counter.backward_token_layers / self._n,
            counter.sequences / self._n,
            self._peak,
        )

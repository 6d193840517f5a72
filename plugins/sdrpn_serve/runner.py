"""A model in threads of its own, for callers in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdrpn_serve.calls import Ask, Located, Look, Refusal, Reply
    from sdrpn_serve.served_model import ServedModel

__all__ = ["ModelRunner"]


class ModelRunner:
    """Runs one batch at a time, and a few single calls beside it.

    Args:
        model: what is run.
        n_singles: streamed answers and calls without an answer that run at a time; others wait.
    """

    def __init__(self, model: ServedModel, n_singles: int) -> None:
        self._model = model
        self._batches = ThreadPoolExecutor(1, "batches")
        self._singles = ThreadPoolExecutor(n_singles, "singles")

    async def answer_batch(self, asks: Sequence[Ask]) -> list[Reply | Refusal]:
        """Answer a batch of questions."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._batches, self._model.answer, asks)

    async def locate(self, look: Look) -> Located | Refusal:
        """Find the region that a question is about."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._singles, self._model.locate, look)

    async def stream(self, ask: Ask) -> AsyncGenerator[str | Reply | Refusal, None]:
        """The pieces of a response as they are made, then the reply; or a refusal.

        Who stops reading ends the response.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        cancelled = threading.Event()

        def emit(piece: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        running = loop.run_in_executor(self._singles, self._model.stream, ask, emit, cancelled)
        running.add_done_callback(lambda done: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield await running
        finally:
            cancelled.set()
            running.cancel()  # where it still waits for a thread

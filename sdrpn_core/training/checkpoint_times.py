"""When a run saves its state: every few steps, or by the clock."""

from __future__ import annotations

import time

#: Of training, which is what a kill can lose: short compared with runs that take hours, and long
#: compared with writing an RPN and its optimizer.
SECONDS_BETWEEN_CHECKPOINTS = 600.0


class CheckpointTimes:
    """Says after which steps the state is saved; after the last one in any case.

    Args:
        every: optimizer steps between checkpoints; ``None``: the first step that ends
            :data:`SECONDS_BETWEEN_CHECKPOINTS` after the last checkpoint.
        last: number of steps of the run.
    """

    def __init__(self, every: int | None, last: int) -> None:
        self._every = every
        self._last = last
        self._since = time.monotonic()

    def is_due(self, done: int) -> bool:
        """Whether the state is to be saved now.

        Args:
            done: optimizer steps done so far.
        """
        if done == self._last:
            return True
        if self._every is not None:
            return done % self._every == 0
        return time.monotonic() - self._since >= SECONDS_BETWEEN_CHECKPOINTS

    def saved(self) -> None:
        """The state was saved: start counting anew, without the time that it took."""
        self._since = time.monotonic()

"""Text that arrives in pieces, passed on up to the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopFilter"]


class StopFilter:
    """Passes pieces of a response on, without its outer white space.

    The response ends before the stop string that is complete first; of several that end at the same
    place, before the longest. What may still become one, or be the white space at the end, is held
    back. So the text does not depend on how it is cut into pieces.

    Args:
        stop: the stop strings; empty ones are left out.

    Attributes:
        stopped: whether one has been found; nothing is passed on from then on.
        text: all that was passed on.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self.text = ""
        self._stop = [one for one in stop if one]
        self._held = ""

    def feed(self, piece: str, *, last: bool = False) -> str:
        """Take a piece; returns what can be passed on.

        Args:
            piece: of the response.
            last: whether nothing follows.
        """
        if self.stopped:
            return ""
        self._held += piece
        found = [(self._held.find(one) + len(one), -len(one)) for one in self._stop_in_held()]
        if found:
            end, length = min(found)
            self.stopped = last = True
            self._held = self._held[: end + length]
        n_held = 0 if last else self._n_unfinished()
        ready = self._held[: len(self._held) - n_held].rstrip()
        self._held = self._held[len(ready) :]
        passed = ready if self.text else ready.lstrip()
        self.text += passed
        return passed

    def _stop_in_held(self) -> list[str]:
        return [one for one in self._stop if one in self._held]

    def _n_unfinished(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(one.startswith(self._held[-length:]) for one in self._stop):
                return length
        return 0

"""Which positions of the sequence the keys of an attention call stand for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class KeyColumns:
    """The keys of one call, as positions in the (padded) sequence.

    A cache may hold fewer keys than the sequence has positions, as behind a sliding window the
    first ones are forgotten; or more, as one of fixed size has room behind the last.

    Attributes:
        seen: positions that ran before this call.
        n_queries: positions that run in it.
        n_keys: keys that the cache hands out.
    """

    seen: int
    n_queries: int
    n_keys: int

    @property
    def total(self) -> int:
        """Positions of the sequence, up to the last query."""
        return self.seen + self.n_queries

    @property
    def forgotten(self) -> int:
        """How many of the first positions have no key any more."""
        return max(self.total - self.n_keys, 0)

    @property
    def of_first_query(self) -> int:
        """The place among the keys of the first query's own."""
        return self.seen - self.forgotten

    def widen(self, rows: torch.Tensor) -> torch.Tensor:
        """Values by key as values by position, with 0 where there is no key any more.

        What is forgotten lies before the window, where nothing attends to.

        Args:
            rows: ``(..., n_keys)``.

        Returns:
            ``(..., total)``.
        """
        return F.pad(rows[..., : self.total - self.forgotten], (self.forgotten, 0))

"""Work that waits until its result is asked for, and then runs for all who ask together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

__all__ = ["DeferredRows", "computed_rows"]

T = TypeVar("T")


class DeferredRows(Generic[T]):
    """Work on the rows of a batch; that on a row is done once somebody asks for it.

    Args:
        n_rows: of the batch.
        work: takes numbers of rows, and returns one result for each.
        held: memory of what the work holds, until it is done for all rows.
    """

    def __init__(
        self, n_rows: int, work: Callable[[Sequence[int]], Sequence[T]], *, held: int = 0
    ) -> None:
        self._n_rows = n_rows
        self._work: Callable[[Sequence[int]], Sequence[T]] | None = work
        self._held = held
        self._done: dict[int, T] = {}

    def do(self, rows: Iterable[int] | None = None) -> None:
        """Do what is left of the work on some rows, all of them together.

        Args:
            rows: their numbers; default: all.
        """
        work = self._work
        wanted = range(self._n_rows) if rows is None else dict.fromkeys(rows)
        missing = [row for row in wanted if row not in self._done]
        if missing and work is not None:
            self._done.update(zip(missing, work(missing), strict=True))
        if len(self._done) == self._n_rows:
            self._work = None  # and with it what it worked on

    def row(self, index: int) -> T:
        """The result of one row."""
        self.do([index])
        return self._done[index]

    def found(self, index: int) -> T | None:
        """The result of one row, if the work has been done; nothing runs."""
        return self._done.get(index)

    def held_for(self, index: int) -> int:
        """One row's share of the memory that the work holds: all goes to those that wait for it."""
        if index in self._done:
            return 0
        return self._held // max(1, self._n_rows - len(self._done))


def computed_rows(asked: Sequence[tuple[DeferredRows[T], int]]) -> list[T]:
    """The results of rows of any batches; those of one batch are worked on together.

    Args:
        asked: per result the batch, and the number of the row.
    """
    for batch in {id(batch): batch for batch, _ in asked}.values():
        batch.do(row for one, row in asked if one is batch)
    return [batch.row(row) for batch, row in asked]

"""What a gate needs of a prefix, and how work on prefixes can wait until it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from transformers import DynamicCache

from sdrpn_core.gate.gate import Gate
from sdrpn_core.runtime.kv_cache import SequenceKV, join_cache, n_bytes, split_cache
from sdrpn_core.taps.copied_layers import run_layers
from sdrpn_core.taps.feature_tap import Features

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class GateRow:
    """One prefix behind the gate's layers.

    Attributes:
        last: ``(hidden,)`` state of its last token.
        keys_values: of the gate's layers.
    """

    last: torch.Tensor
    keys_values: SequenceKV

    @property
    def nbytes(self) -> int:
        """Memory of its tensors."""
        return n_bytes(self.keys_values) + self.last.nbytes


@torch.no_grad()
def read_rows(gate: Gate, features: Features, starts: Sequence[int]) -> list[GateRow]:
    """Run prefixes through the gate's layers.

    Args:
        gate: has layers of its own.
        features: of left-padded prefixes.
        starts: per row the column of its first token.
    """
    cache = DynamicCache()
    hidden = run_layers(list(gate.layers), features, next(gate.parameters()), cache)
    return [
        GateRow(hidden[row, -1].clone(), keys_values)
        for row, keys_values in enumerate(split_cache(cache, starts))
    ]


@torch.no_grad()
def last_states(gate: Gate, rows: Sequence[GateRow], features: Features | None) -> torch.Tensor:
    """``(batch, hidden)``: the last prompt tokens behind the gate's layers.

    Args:
        gate: has layers of its own.
        rows: per sequence what :func:`read_rows` kept.
        features: of what follows the prefixes, left-padded on its own; ``None``: nothing.
    """
    if features is None:
        return torch.stack([row.last for row in rows])
    cache = join_cache([row.keys_values for row in rows])
    return run_layers(list(gate.layers), features, next(gate.parameters()), cache)[:, -1]


class Later(Generic[T]):
    """Work on the rows of a batch; a row's is done once somebody asks for it.

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


def results(asked: Sequence[tuple[Later[T], int]]) -> list[T]:
    """The results of rows of any batches; those of one batch are worked on together.

    Args:
        asked: per result the batch, and the number of the row.
    """
    for later in {id(later): later for later, _ in asked}.values():
        later.do(row for one, row in asked if one is later)
    return [later.row(row) for later, row in asked]

"""What a gate needs of a prefix, and what of the RPN's work can wait for its word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Work on a batch that is done once somebody asks for it.

    Args:
        work: returns one result per row.
    """

    def __init__(self, work: Callable[[], Sequence[T]]) -> None:
        self._work: Callable[[], Sequence[T]] | None = work
        self._rows: Sequence[T] = ()

    @classmethod
    def done(cls, rows: Sequence[T]) -> Later[T]:
        """Work that was done before."""
        return cls(lambda: rows)

    def row(self, index: int) -> T:
        """The result of one row; the first call does the work for all."""
        if self._work is not None:
            self._rows = self._work()
            self._work = None  # and with it what it worked on
        return self._rows[index]

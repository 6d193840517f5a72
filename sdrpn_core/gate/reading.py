"""What a gate needs of a prefix, and how it goes on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from sdrpn_core.gate.gate import Gate
from sdrpn_core.runtime.kv_cache import SequenceKV, join_cache, n_bytes, split_cache
from sdrpn_core.taps.copied_layers import run_layers
from sdrpn_core.taps.feature_tap import Features


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

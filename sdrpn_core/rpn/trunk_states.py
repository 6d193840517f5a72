"""Hidden states that leave the RPN's trunk: of a batch, and of one prefix, to be reused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdrpn_core.runtime.kv_cache import SequenceKV, left_padded, n_bytes, unpadded

if TYPE_CHECKING:
    from sdrpn_core.gate.reading import GateRow, Later
    from sdrpn_core.rpn.head import PositionEmbeddings


@dataclass(frozen=True)
class TrunkStates:
    """Inputs of the head, for consecutive tokens.

    Attributes:
        hidden: ``(batch, length, hidden)``, behind the trunk's norm if it has one.
        rotary: cosine and sine ``(batch or 1, length, head_dim)`` of the tokens' positions;
            ``None`` for decoders without rotary embeddings.
    """

    hidden: torch.Tensor
    rotary: PositionEmbeddings | None

    def row(self, row: int, start: int) -> TrunkStates:
        """One sequence of a left-padded batch, as a batch of its own."""
        return TrunkStates(
            unpadded(self.hidden, row, start)[None],
            None if self.rotary is None else self._rotary_row(self.rotary, row, start),
        )

    def part(self, row: int, start: int, stop: int) -> TrunkStates:
        """Some columns of one sequence, as a batch of its own: views, not copies."""
        rotary = None
        if self.rotary is not None:
            cos, sin = (each[_row_of(each, row), start:stop][None] for each in self.rotary)
            rotary = cos, sin
        return TrunkStates(self.hidden[row : row + 1, start:stop], rotary)

    @classmethod
    def padded(cls, rows: Sequence[TrunkStates], length: int) -> TrunkStates:
        """Single sequences as one left-padded batch.

        Args:
            rows: the sequences.
            length: columns of the batch.
        """
        rotary = [row.rotary for row in rows if row.rotary is not None]
        return cls(
            left_padded([row.hidden[0] for row in rows], length),
            (
                left_padded([cos[0] for cos, _ in rotary], length),
                left_padded([sin[0] for _, sin in rotary], length),
            )
            if rotary
            else None,
        )

    def followed_by(self, other: TrunkStates) -> TrunkStates:
        """Both, side by side, as one batch of longer sequences."""
        rotary = None
        if self.rotary is not None and other.rotary is not None:
            n = len(self.hidden)
            cos, sin = (
                torch.cat([part.expand(n, -1, -1) for part in parts], dim=1)
                for parts in zip(self.rotary, other.rotary, strict=True)
            )
            rotary = cos, sin
        return TrunkStates(torch.cat([self.hidden, other.hidden], dim=1), rotary)

    @staticmethod
    def _rotary_row(rotary: PositionEmbeddings, row: int, start: int) -> PositionEmbeddings:
        cos, sin = (unpadded(part, _row_of(part, row), start)[None] for part in rotary)
        return cos, sin


def _row_of(part: torch.Tensor, row: int) -> int:
    """Where a row's positions lie: all rows may share one."""
    return row if len(part) > 1 else 0


@dataclass(frozen=True)
class TrunkRow:
    """What is kept of one prefix: everything that does not depend on the question.

    Attributes:
        states: a batch of one, without padding.
        keys_values: of the trunk's layers.
    """

    states: TrunkStates
    keys_values: SequenceKV

    @property
    def nbytes(self) -> int:
        """Memory of its tensors."""
        tensors = [self.states.hidden, *(self.states.rotary or ())]
        return n_bytes(self.keys_values) + sum(tensor.nbytes for tensor in tensors)


@dataclass(frozen=True, eq=False)
class PrefixReading:
    """What an RPN keeps of one prefix.

    Attributes:
        length: tokens of the prefix.
        later: the trunk's rows of the prefix's batch, which need not have been computed.
        row: which of them is the prefix's.
        gate: what a gate with layers of its own keeps; ``None`` without one.
    """

    length: int
    later: Later[TrunkRow]
    row: int
    gate: GateRow | None = None

    @property
    def trunk(self) -> TrunkRow:
        """What leaves the trunk."""
        return self.later.row(self.row)

    @property
    def nbytes(self) -> int:
        """Memory of its tensors, which is asked for to keep them: so the trunk has to run.

        It does for the whole batch at once: the other prefixes are about to be kept as well.
        """
        self.later.do()
        return self.trunk.nbytes + (0 if self.gate is None else self.gate.nbytes)


def trunk_rows(readings: Sequence[PrefixReading]) -> list[TrunkRow]:
    """What leaves the trunk for each of these prefixes; those of one batch run together."""
    for later in {id(reading.later): reading.later for reading in readings}.values():
        later.do(reading.row for reading in readings if reading.later is later)
    return [reading.trunk for reading in readings]

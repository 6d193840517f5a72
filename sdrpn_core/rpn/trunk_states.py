"""Hidden states that leave the RPN's trunk: of a batch, and of one prefix, to be reused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdrpn_core.runtime.kv_cache import SequenceKV, left_padded, n_bytes, unpadded
from sdrpn_core.util.deferred import DeferredRows, computed_rows

if TYPE_CHECKING:
    from sdrpn_core.gate.reading import GateRow
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
    """What an RPN keeps of one prefix: of trunk and gate what has been asked for, and may yet be.

    Attributes:
        length: tokens of the prefix.
        of_trunk: the trunk's rows of the prefix's batch, which need not have been computed.
        row: which of them is the prefix's.
        of_gate: the same of a gate with layers of its own; ``None`` without one.
    """

    length: int
    of_trunk: DeferredRows[TrunkRow]
    row: int
    of_gate: DeferredRows[GateRow] | None = None

    @property
    def trunk(self) -> TrunkRow:
        """What leaves the trunk."""
        return self.of_trunk.row(self.row)

    @property
    def gate(self) -> GateRow | None:
        """What leaves the gate's layers; ``None`` without such a gate."""
        return None if self.of_gate is None else self.of_gate.row(self.row)

    @property
    def nbytes(self) -> int:
        """Memory of the tensors that there are, for which nothing has to run.

        It grows when the trunk or the gate does. What has not run holds the branch features: a
        batch's, counted once for all of its prefixes that wait.
        """
        parts = [one for one in (self.of_trunk, self.of_gate) if one is not None]
        found = [part.found(self.row) for part in parts]
        held = max(part.held_for(self.row) for part in parts)
        return held + sum(one.nbytes for one in found if one is not None)


def trunk_rows(readings: Sequence[PrefixReading]) -> list[TrunkRow]:
    """What leaves the trunk for each of these prefixes; those of one batch run together."""
    return computed_rows([(reading.of_trunk, reading.row) for reading in readings])


def gate_rows(readings: Sequence[PrefixReading]) -> list[GateRow]:
    """What leaves the gate's layers for each of these prefixes; those of one batch run together.

    Prefixes that were read without a gate with layers of its own are left out.
    """
    asked = [(reading.of_gate, reading.row) for reading in readings]
    return computed_rows([(batch, row) for batch, row in asked if batch is not None])

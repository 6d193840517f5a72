"""Padding of several prompts to one batch, split into blocks that a KV cache can share.

A batch is a row of blocks (prefix, then what follows). Each block is left-padded on its own, so the
last column of every block is real for every sample, and the padding inside the row is a hole in the
attention mask. Positions are explicit: a hole takes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch


@dataclass(frozen=True)
class Block:
    """Left-padded rows of one block.

    Attributes:
        embeds: ``(batch, length, token_width)``.
        mask: ``(batch, length)`` int64, 1 where a token is.
        positions: ``(batch, length)`` or ``(axes, batch, length)`` int64, or float32 where tokens
            lie between whole positions; 0 at padding.
        ids: ``(batch, length)`` int64, the placeholder's at visual tokens, 0 at padding; ``None``
            where they are unknown, as of hidden states from a file.
    """

    embeds: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    ids: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """Columns of the block, padding included."""
        return int(self.mask.shape[1])

    @property
    def starts(self) -> torch.Tensor:
        """``(batch,)`` column of each row's first token."""
        return self.length - self.mask.sum(dim=1)


def left_pad(
    embeds: Sequence[torch.Tensor],
    positions: Sequence[torch.Tensor],
    ids: Sequence[torch.Tensor] | None = None,
) -> Block:
    """Pad rows on the left to a common length.

    Args:
        embeds: per row ``(length_i, token_width)``.
        positions: per row ``(length_i,)`` or ``(axes, length_i)``.
        ids: per row ``(length_i,)``, where they are known.
    """
    length = max(row.shape[0] for row in embeds)
    first = embeds[0]
    padded = first.new_zeros(len(embeds), length, first.shape[-1])
    mask = torch.zeros(len(embeds), length, dtype=torch.long, device=first.device)
    axes = positions[0].shape[:-1]
    dtype = reduce(torch.promote_types, (row.dtype for row in positions))
    padded_positions = torch.zeros(*axes, len(embeds), length, dtype=dtype, device=first.device)
    padded_ids = None if ids is None else torch.zeros_like(mask)
    for row, (values, places) in enumerate(zip(embeds, positions, strict=True)):
        start = length - values.shape[0]
        padded[row, start:] = values
        mask[row, start:] = 1
        padded_positions[..., row, start:] = places.to(first.device)
        if ids is not None and padded_ids is not None:
            padded_ids[row, start:] = ids[row].to(first.device)
    return Block(padded, mask, padded_positions, padded_ids)


def join(*blocks: Block) -> Block:
    """Blocks side by side, holes included."""
    ids = [b.ids for b in blocks if b.ids is not None]
    return Block(
        torch.cat([b.embeds for b in blocks], dim=1),
        torch.cat([b.mask for b in blocks], dim=1),
        torch.cat([b.positions for b in blocks], dim=-1),
        torch.cat(ids, dim=1) if len(ids) == len(blocks) else None,
    )


@dataclass(frozen=True)
class ImagePlace:
    """Where one image's visual tokens lie in a batch.

    Attributes:
        row: batch row.
        start: column of the first visual token, in the row of all chunks joined.
        grid: ``(h, w)``.
        query: column of the last prompt token.
        question: column of the first token behind the last image, if the scores of all tokens
            from there to ``query`` are wanted, too; ``None`` if not.
        first: column of the row's first token, for heads that look for attention sinks; ``None``
            in training.
    """

    row: int
    start: int
    grid: tuple[int, int]
    query: int
    question: int | None = None
    first: int | None = None

    @property
    def n_tokens(self) -> int:
        """Visual tokens of the image."""
        return self.grid[0] * self.grid[1]

"""Padding of several prompts to one batch, split into blocks that a KV cache can share.

A batch is a row of blocks (the prefix, then the remainder). Each block is left-padded on its own,
so its last column holds a token of every sample, and padding between two blocks is a hole in the
attention mask. Positions are explicit, and padding takes none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from sdrpn_core.runtime.kv_cache import cache_argument

if TYPE_CHECKING:
    from transformers import Cache

    from sdrpn_core.backbone.prompt import Prompt


@dataclass(frozen=True)
class Block:
    """Left-padded rows of one block.

    Attributes:
        embeds: ``(batch, length, token_width)``.
        mask: ``(batch, length)`` int64, 1 where a token is.
        positions: ``(batch, length)`` or ``(axes, batch, length)`` int64, or float32 where tokens
            lie between whole positions; 0 at padding.
        lengths: per row its number of tokens. The mask says so as well, but on a GPU one would have
            to wait for it.
        ids: ``(batch, length)`` int64, the placeholder's at visual tokens, 0 at padding; ``None``
            where they are unknown, as of hidden states from a file.
    """

    embeds: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    lengths: tuple[int, ...]
    ids: torch.Tensor | None = None

    @property
    def length(self) -> int:
        """Columns of the block, padding included."""
        return int(self.mask.shape[1])

    @property
    def starts(self) -> list[int]:
        """Column of each row's first token, in a block without holes."""
        return [self.length - n for n in self.lengths]

    def model_inputs(
        self, cache: Cache | None = None, *, prefix: Block | None = None
    ) -> dict[str, Any]:
        """The arguments of a forward pass over the block, of a decoder or of a whole model.

        Args:
            cache: receives the block's keys and values, and holds those of ``prefix``; ``None``
                runs without a cache.
            prefix: the tokens that ``cache`` already holds.
        """
        mask = self.mask if prefix is None else torch.cat([prefix.mask, self.mask], dim=1)
        return {
            "inputs_embeds": self.embeds,
            "attention_mask": mask,
            "position_ids": self.positions,
            "use_cache": cache is not None,
            **cache_argument(cache),
        }


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
    lengths = tuple(int(row.shape[0]) for row in embeds)
    return Block(padded, mask, padded_positions, lengths, padded_ids)


def join(*blocks: Block) -> Block:
    """Blocks side by side, holes included."""
    ids = [b.ids for b in blocks if b.ids is not None]
    return Block(
        torch.cat([b.embeds for b in blocks], dim=1),
        torch.cat([b.mask for b in blocks], dim=1),
        torch.cat([b.positions for b in blocks], dim=-1),
        tuple(map(sum, zip(*(b.lengths for b in blocks), strict=True))),
        torch.cat(ids, dim=1) if len(ids) == len(blocks) else None,
    )


@dataclass(frozen=True)
class ImagePlace:
    """Where one image's visual tokens lie in a batch.

    Attributes:
        row: batch row.
        start: column of the first visual token, counted over all blocks side by side.
        grid: ``(h, w)``.
        query: column of the last prompt token.
        question: column of the first token behind the last image, if the scores of all tokens
            from there to ``query`` are wanted, too; ``None`` if not.
        first: column of the row's first token, for heads that look at it; ``None`` where it is
            unknown. Two places are equal whether it is known or not.
    """

    row: int
    start: int
    grid: tuple[int, int]
    query: int
    question: int | None = None
    first: int | None = field(default=None, compare=False)

    @property
    def n_tokens(self) -> int:
        """Visual tokens of the image."""
        return self.grid[0] * self.grid[1]


WantsQuestion: TypeAlias = Callable[[int, tuple[int, int]], bool]
"""Called with the number of an image in its prompt, from 0, and its grid."""


def image_places(
    prompts: Sequence[Prompt],
    block: Block,
    *,
    n_following: int = 0,
    wants_question: WantsQuestion | None = None,
) -> list[ImagePlace]:
    """Where the images of a batch lie, prompt by prompt.

    Args:
        prompts: the sequences; a response may follow a prompt, but no crop is inserted.
        block: the sequences, or as much of them as holds the images.
        n_following: columns behind ``block``, where the remainder of the sequences lies.
        wants_question: tells for which images all tokens of the question score the image, rather
            than the last one alone; default: for none.
    """
    length = block.length + n_following
    places = []
    for row, (prompt, offset) in enumerate(zip(prompts, block.starts, strict=True)):
        # Blocks are left-padded: counted from the right, columns and tokens agree.
        query = length - len(prompt) + prompt.query_index
        question = length - len(prompt) + prompt.prefix_length
        spans = zip(prompt.image_spans, prompt.images, strict=True)
        for number, ((start, _), image) in enumerate(spans):
            wanted = wants_question is not None and wants_question(number, image.grid)
            places.append(
                ImagePlace(
                    row,
                    offset + start,
                    image.grid,
                    query,
                    question if wanted else None,
                    first=offset,
                )
            )
    return places

"""The model's logits for rows of tokens, wherever these are wider than its embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdrpn_core.runtime.block import Block, join
from sdrpn_core.runtime.generation import rows_of_prompts
from sdrpn_core.runtime.kv_cache import cache_argument

if TYPE_CHECKING:
    from transformers import Cache

    from sdrpn_core.backbone.adapter import Backbone


def block_logits(
    backbone: Backbone,
    block: Block,
    prefix: Block | None = None,
    cache: Cache | None = None,
    *,
    keep: int | None = None,
) -> torch.Tensor:
    """Logits ``(batch, length, vocabulary)`` of a block, by the stock model's own forward pass.

    Args:
        backbone: the adapter.
        block: prompts, or what follows ``prefix``.
        prefix: tokens that ``cache`` holds already.
        cache: their KV cache; extended in place.
        keep: those of so many of the last columns alone; default: all.
    """
    mask = block.mask if prefix is None else join(prefix, block).mask
    with rows_of_prompts(backbone, block, mask):
        output = backbone.model(
            input_ids=block.ids,
            attention_mask=mask,
            position_ids=block.positions,
            **cache_argument(cache),
            **({} if keep is None else {"logits_to_keep": keep}),
        )
    logits: torch.Tensor = output.logits
    return logits

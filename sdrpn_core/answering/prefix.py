"""The prefix of a prompt, up to the end of its last image: runs once through the decoder.

Under the causal mask it depends neither on the question nor on the crops. Its keys and values serve
the proposal, the answer, and every other question about the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from sdrpn_core.runtime.block import Block, left_pad
from sdrpn_core.runtime.buckets import buckets
from sdrpn_core.runtime.generate_options import STATIC
from sdrpn_core.runtime.generation import columns_needed, prompt_block
from sdrpn_core.runtime.in_place_cache import full_cache
from sdrpn_core.runtime.kv_cache import (
    SequenceKV,
    join_cache,
    n_bytes,
    split_cache,
    static_cache,
    trim,
    unpadded,
)
from sdrpn_core.taps.feature_tap import FeatureTap

if TYPE_CHECKING:
    from transformers import Cache

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.runtime.clock import StageClock
    from sdrpn_core.taps.feature_tap import Features


class PrefixReader(Protocol):
    """Reads the branch features of prefixes while they run, and keeps what it needs, a reading.

    An RPN is one. The attribute ``nbytes`` of a reading, if it has one, counts as its memory.
    """

    @property
    def branch(self) -> int:
        """B, the layer whose input is read."""

    def read_prefix(self, features: Features, starts: Sequence[int]) -> Sequence[Any]:
        """One reading per row of a left-padded batch.

        Args:
            features: what reached the branch layer.
            starts: per row the column of its first token.
        """


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prefix that has run.

    Attributes:
        prompt: its segments; the images' features are parts of ``embeds``.
        embeds: ``(length, token_width)``.
        positions: ``(length,)`` or ``(axes, length)``.
        ids: ``(length,)`` int64.
        keys_values: of all layers.
        reader: what read its branch features; ``None`` if nothing did.
        reading: what the reader kept.
        cache: what ``keys_values`` are views of, if it holds this prefix alone and no other answer
            uses it: the one answer may go on behind as much of it as it keeps.
    """

    prompt: Prompt
    embeds: torch.Tensor
    positions: torch.Tensor
    ids: torch.Tensor
    keys_values: SequenceKV
    reader: PrefixReader | None = None
    reading: Any = None
    cache: Cache | None = None

    def __len__(self) -> int:
        return len(self.embeds)

    @property
    def nbytes(self) -> int:
        """Memory of its tensors, including those of the reading."""
        tensors = (self.embeds, self.positions, self.ids)
        own = n_bytes(self.keys_values) + sum(tensor.nbytes for tensor in tensors)
        return own + int(getattr(self.reading, "nbytes", 0))


@torch.no_grad()
def run_prefixes(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    reader: PrefixReader | None = None,
    *,
    max_padding: float,
    clock: StageClock,
    n_behind: int | None = None,
) -> list[Prefix]:
    """Run prefixes through all layers, those of similar length together.

    Args:
        backbone: the model.
        prompts: the prefixes' segments.
        reader: reads the branch features.
        max_padding: largest share of a batch that may be padding.
        clock: times the reader.
        n_behind: tokens that will follow a prefix, crops aside, in the one answer that it serves;
            ``None`` if several may use it.
    """
    done: dict[int, Prefix] = {}
    lengths = [(len(prompt),) for prompt in prompts]
    for batch in buckets(lengths, len(prompts), max_padding):
        chosen = [prompts[index] for index in batch]
        found = _run(backbone, chosen, reader, clock, n_behind)
        done.update(zip(batch, found, strict=True))
    return [done[index] for index in range(len(prompts))]


def _run(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    reader: PrefixReader | None,
    clock: StageClock,
    n_behind: int | None,
) -> list[Prefix]:
    block = prompt_block(backbone, prompts)
    is_shared = n_behind is None
    n_columns = block.length
    if n_behind is not None:
        n_columns = columns_with_crops(prompts, block.length + n_behind)
    cache = full_cache(backbone.n_layers, n_columns)
    inputs = block.model_inputs(cache)
    if reader is None:
        backbone.decoder(**inputs)
        return keep_prefixes(backbone, prompts, block, cache, is_shared=is_shared)
    with FeatureTap(backbone.decoder, reader.branch, stop=False) as tap:
        features = tap.run(**inputs)
    with clock.stage("proposal"):
        readings = reader.read_prefix(features, block.starts)
    return keep_prefixes(backbone, prompts, block, cache, reader, readings, is_shared=is_shared)


def columns_with_crops(prompts: Sequence[Prompt], n_columns: int) -> int:
    """How many tokens to leave room for where prompts may yet be given crops.

    A batch is taken apart before its crops come, and put together in another cache.

    Args:
        prompts: a batch.
        n_columns: its tokens and those of the responses, without crops.
    """
    return n_columns + prompts[0].n_visual_tokens if len(prompts) == 1 else n_columns


def keep_prefixes(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    block: Block,
    cache: Cache,
    reader: PrefixReader | None = None,
    readings: Sequence[Any] = (),
    *,
    is_shared: bool = False,
) -> list[Prefix]:
    """Split a batch that has run into prefixes.

    Args:
        backbone: the model.
        prompts: what ran.
        block: the same, left-padded.
        cache: its keys and values.
        reader: what read its branch features.
        readings: what the reader kept, per prompt; empty without a reader.
        is_shared: whether several answers may use a prefix.
    """
    own = cache if len(prompts) == 1 and not is_shared else None
    starts = block.starts
    kept = split_cache(cache, starts)
    prefixes = []
    for row, (prompt, start) in enumerate(zip(prompts, starts, strict=True)):
        embeds = unpadded(block.embeds, row, start)
        positions = block.positions[..., row, start:].clone()
        prefixes.append(
            Prefix(
                prompt.with_features(embeds),
                embeds,
                positions,
                torch.tensor(backbone.token_ids(prompt), device=embeds.device),
                kept[row],
                reader,
                readings[row] if reader is not None else None,
                own,
            )
        )
    return prefixes


def prefix_block(prefixes: Sequence[Prefix], lengths: Sequence[int] | None = None) -> Block:
    """Embeddings and positions of prefixes, left-padded.

    Args:
        prefixes: a batch.
        lengths: how many of each prefix's first tokens to take; default: all.
    """
    stops = lengths or [len(prefix) for prefix in prefixes]
    pairs = list(zip(prefixes, stops, strict=True))
    return left_pad(
        [prefix.embeds[:stop] for prefix, stop in pairs],
        [prefix.positions[..., :stop] for prefix, stop in pairs],
        [prefix.ids[:stop] for prefix, stop in pairs],
    )


def prefix_cache(
    backbone: Backbone,
    prefixes: Sequence[Prefix],
    lengths: Sequence[int],
    *,
    n_following: int,
    max_new_tokens: int,
    implementation: str | None = None,
) -> Cache:
    """The keys and values of prefixes, left-padded, in a cache that an answer may extend.

    Args:
        backbone: the model.
        prefixes: a batch.
        lengths: how many of each prefix's first tokens to take.
        n_following: columns of what follows the prefixes.
        max_new_tokens: upper limit of the response lengths.
        implementation: of the cache, see :func:`~sdrpn_core.runtime.generation.generate`.
    """
    n_prompt = max(lengths) + n_following
    n_columns = columns_needed(n_prompt, max_new_tokens)
    rows = [prefix.keys_values for prefix in prefixes]
    if implementation == STATIC:
        return static_cache(backbone.text_config, n_prompt + max_new_tokens, rows, lengths)
    own = prefixes[0].cache
    if len(prefixes) > 1 or own is None:
        return join_cache(rows, lengths, n_columns=n_columns)
    trim(own, lengths[0], n_columns)
    return own

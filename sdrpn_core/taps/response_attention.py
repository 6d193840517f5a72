"""Response-to-image attention: where the model looks while it answers.

The rows are those of the response tokens that are fed back: with greedy decoding the first
generated token up to the last before the end token (the published ``output2images``). A given
response is read in one forward pass, an own one while it is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from sdrpn_core.errors import AttentionError, ConfigError
from sdrpn_core.labels.recipe import ALL_HEADS, LabelRecipe
from sdrpn_core.runtime.generate_options import batches_without_padding
from sdrpn_core.runtime.generation import columns_needed, generate, prompt_block
from sdrpn_core.runtime.in_place_cache import full_cache
from sdrpn_core.taps.attention_tap import AttentionRows, AttentionTap
from sdrpn_core.taps.feature_tap import FeatureTap

if TYPE_CHECKING:
    from transformers import Cache

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.labels.recipe import HeadsByLayer
    from sdrpn_core.runtime.block import Block
    from sdrpn_core.taps.feature_tap import Features

#: ``{layer: heads}`` for the tap; ``None`` stands for all heads.
TappedHeads = Mapping[int, Sequence[int] | None]

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ResponseAttention:
    """What one prompt's response attended to.

    Attributes:
        response_ids: the response, without the end token.
        n_rows: how many response tokens the maps are averaged over.
        maps: per image ``{layer: (heads, h, w)}`` float32 mean rows, in the order of the tapped
            heads; empty where ``n_rows`` is 0.
    """

    response_ids: tuple[int, ...]
    n_rows: int
    maps: tuple[Mapping[int, Map], ...]


def recipe_heads(recipe: LabelRecipe) -> dict[int, list[int] | None]:
    """The heads that a recipe reads, grounding and sink together."""
    heads: dict[int, list[int] | None] = {}
    for layer in recipe.layers:
        chosen: set[int] | None = set()
        for heads_by_layer in (recipe.grounding, recipe.sink):
            part = heads_by_layer.get(layer, ())
            chosen = None if chosen is None or part == ALL_HEADS else chosen.union(part)
        heads[layer] = None if chosen is None else sorted(chosen)
    return heads


def recipe_maps(recipe: LabelRecipe, maps: Mapping[int, Map]) -> tuple[Map, Map]:
    """Grounding and sink map ``(h, w)`` float32 of one image: means over the recipe's heads.

    Args:
        recipe: which heads.
        maps: ``{layer: (heads, h, w)}``, tapped with exactly :func:`recipe_heads`.

    Raises:
        ConfigError: the maps were tapped with other heads.
    """
    tapped = recipe_heads(recipe)
    for layer, order in tapped.items():
        found = len(maps[layer]) if layer in maps else 0
        if not found or (order is not None and found != len(order)):
            raise ConfigError(
                f"the maps of layer {layer} hold {found} heads, the recipe reads "
                f"{'all' if order is None else order}: tap with recipe_heads(recipe)"
            )

    def mean(chosen: HeadsByLayer) -> Map:
        rows: list[Map] = []
        for layer, heads in chosen.items():
            order = tapped[layer]
            if heads == ALL_HEADS:
                rows.extend(maps[layer])
            else:
                rows.extend(maps[layer][h if order is None else order.index(h)] for h in heads)
        return np.mean(np.stack(rows), axis=0, dtype=np.float32)

    grounding = mean(recipe.grounding)
    return grounding, mean(recipe.sink) if recipe.sink else np.zeros_like(grounding)


@torch.no_grad()
def read_given_responses(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    heads: TappedHeads,
    *,
    max_rows: int | None = None,
) -> list[ResponseAttention]:
    """Attention of responses that are part of the prompts; stops after the deepest tapped layer.

    Args:
        backbone: the model.
        prompts: a batch, responses included.
        heads: which layers and heads.
        max_rows: average over only the first this many response tokens.

    Raises:
        InputError: a prompt with its response exceeds the model's context.
    """
    backbone.check_context(max(map(len, prompts)))
    block = prompt_block(backbone, prompts)
    with _given_tap(backbone, prompts, block, heads) as tap:
        _run_layers(backbone, block, max(heads) + 1)
    return _averages(tap, heads, prompts, max_rows)


@torch.no_grad()
def stream_given_responses(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    heads: TappedHeads,
    visit: Callable[[int, list[torch.Tensor]], None],
) -> None:
    """Show the rows of given responses layer by layer; no more than one layer's are ever held.

    Args:
        backbone: the model.
        prompts: a batch, responses included, each with one token of response or more.
        heads: which layers and heads.
        visit: called once per layer, ascending, with per prompt the rows of its response,
            ``(heads, response tokens, visual tokens)`` float32 on the layer's device.

    Raises:
        InputError: a prompt with its response exceeds the model's context.
    """
    backbone.check_context(max(map(len, prompts)))
    block = prompt_block(backbone, prompts)

    def consume(layer: int, rows: AttentionRows) -> None:
        visit(
            layer,
            [
                rows.weights[row, :, -prompt.response_length :, : prompt.n_visual_tokens]
                for row, prompt in enumerate(prompts)
            ],
        )

    with _given_tap(backbone, prompts, block, heads, consume):
        _run_layers(backbone, block, max(heads) + 1)


@torch.no_grad()
def read_given_responses_and_features(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    heads: TappedHeads,
    branch: int,
    *,
    max_rows: int | None = None,
) -> tuple[list[ResponseAttention], Block, Features]:
    """The same, and the branch features of the same pass.

    The causal mask keeps the response out of the features of the prompt.

    Args:
        backbone: the model.
        prompts: a batch, responses included.
        heads: which layers and heads.
        branch: B.
        max_rows: average over only the first this many response tokens.
    """
    block = prompt_block(backbone, prompts)
    n_layers = max(branch, max(heads) + 1)
    with _given_tap(backbone, prompts, block, heads) as tap:
        features = _run_layers(backbone, block, n_layers, branch)
    return _averages(tap, heads, prompts, max_rows), block, features


@torch.no_grad()
def read_own_responses(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    heads: TappedHeads,
    *,
    max_new_tokens: int,
    max_rows: int | None = None,
    prefix: Block | None = None,
    cache: Cache | None = None,
) -> list[ResponseAttention]:
    """Attention of the model's own greedy responses, read while they are generated.

    Args:
        backbone: the model.
        prompts: a batch.
        heads: which layers and heads.
        max_new_tokens: upper limit of the response length. The last token is never fed back, so a
            response cut off by the limit lacks its last row.
        max_rows: average over only the first this many response tokens.
        prefix: the prompts' prefixes, if ``cache`` holds them; where the model's generation config
            reads prompts, they and what follows them are to be of one length each.
        cache: their KV cache; extended in place.
    """
    batches = None
    if prefix is None:
        batches = batches_without_padding(backbone, [(len(prompt),) for prompt in prompts])
    if batches is not None and len(batches) > 1:
        found: dict[int, ResponseAttention] = {}
        for batch in batches:
            part = read_own_responses(
                backbone,
                [prompts[index] for index in batch],
                heads,
                max_new_tokens=max_new_tokens,
                max_rows=max_rows,
            )
            found.update(zip(batch, part, strict=True))
        return [found[index] for index in range(len(prompts))]
    starts = None if prefix is None else [prompt.prefix_length for prompt in prompts]
    block = prompt_block(backbone, prompts, starts=starts)
    length = block.length + (prefix.length if prefix is not None else 0)
    if cache is None:
        # One that keeps what has left a window: the tap counts the columns of all keys.
        cache = full_cache(backbone.n_layers, columns_needed(length, max_new_tokens))
    with _tap(
        backbone, prompts, block if prefix is None else prefix, heads, slice(length, None)
    ) as tap:
        responses = generate(
            backbone,
            block,
            max_new_tokens=max_new_tokens,
            prefix=prefix,
            cache=cache,
        )
    n_rows = sum(rows.weights.shape[2] for rows in tap.rows[min(heads)])
    return [
        _average(
            tap, heads, prompt, row, 0, _at_most(min(len(response), n_rows), max_rows), response
        )
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]


def _given_tap(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    block: Block,
    heads: TappedHeads,
    consume: Callable[[int, AttentionRows], None] | None = None,
) -> AttentionTap:
    longest = max(prompt.response_length for prompt in prompts)
    queries = slice(block.length - max(longest, 1), None)
    return _tap(backbone, prompts, block, heads, queries, consume)


def _run_layers(
    backbone: Backbone, block: Block, n_layers: int, branch: int | None = None
) -> Features:
    """Run the first layers; what reached layer ``branch`` (by default the first)."""
    with ExitStack() as stack:
        # The tap that stops comes last: it would keep the other from recording the same layer.
        tap = stack.enter_context(FeatureTap(backbone.decoder, branch or 0, stop=False))
        if n_layers < len(backbone.layers):
            stack.enter_context(FeatureTap(backbone.decoder, n_layers))
        return tap.run(**block.model_inputs())


def _averages(
    tap: AttentionTap, heads: TappedHeads, prompts: Sequence[Prompt], max_rows: int | None
) -> list[ResponseAttention]:
    """Per prompt the mean over its generated response rows, which are the last of those tapped."""
    n_rows = tap.weights(min(heads)).shape[2]
    readings = []
    for row, prompt in enumerate(prompts):
        first = n_rows - prompt.response_length
        last = first + _at_most(prompt.response_length, max_rows)
        readings.append(_average(tap, heads, prompt, row, first, last, prompt.response_ids))
    return readings


def _at_most(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)


def _tap(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    block: Block,
    heads: TappedHeads,
    queries: slice,
    consume: Callable[[int, AttentionRows], None] | None = None,
) -> AttentionTap:
    """A tap on the columns of all visual tokens; ``block`` is the one that holds the images."""
    n = max(prompt.n_visual_tokens for prompt in prompts)
    keys = torch.zeros(len(prompts), max(n, 1), dtype=torch.long)
    for row, (prompt, offset) in enumerate(zip(prompts, block.starts, strict=True)):
        columns = [offset + i for start, stop in prompt.image_spans for i in range(start, stop)]
        keys[row, : len(columns)] = torch.tensor(columns, dtype=torch.long)
    return AttentionTap(backbone.decoder, heads, queries=queries, keys=keys, consume=consume)


def _average(
    tap: AttentionTap,
    heads: TappedHeads,
    prompt: Prompt,
    row: int,
    first: int,
    last: int,
    response: tuple[int, ...],
) -> ResponseAttention:
    n_rows = max(last - first, 0)
    if n_rows == 0:
        return ResponseAttention(response, 0, ())
    # One copy to the host for all layers: each would wait for the device.
    rows = [tap.weights(layer)[row, :, first:last].mean(dim=1) for layer in heads]
    stacked = torch.cat([part.to(rows[0].device) for part in rows]).cpu()
    parts = stacked.split([len(part) for part in rows])
    means = {layer: part.numpy() for layer, part in zip(heads, parts, strict=True)}
    maps, start = [], 0
    for image in prompt.images:
        h, w = image.grid
        maps.append({k: v[:, start : start + h * w].reshape(-1, h, w) for k, v in means.items()})
        start += h * w
    for layer, mean in means.items():
        if not np.isfinite(mean).all():
            raise AttentionError(f"attention of layer {layer} is NaN or infinite")
    return ResponseAttention(response, n_rows, tuple(maps))

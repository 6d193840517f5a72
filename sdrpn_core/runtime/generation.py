"""Greedy decoding with stock ``generate()`` from embeddings, on top of a prefix cache or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor

from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.block import Block, join, left_pad
from sdrpn_core.runtime.clock import StageClock
from sdrpn_core.runtime.kv_cache import cache_argument

if TYPE_CHECKING:
    from transformers import Cache

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt


_ONE_EACH = "every question has one response, decoded token by token"
_EMBEDDINGS = "it needs the ids of the prompt, which consists of embeddings"
_OURS = "sdrpn sets it"
_IDS = "of what generate() returns, an answer holds the token ids"

_REASONS = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), _ONE_EACH),
    **dict.fromkeys(("constraints", "force_words_ids", "penalty_alpha"), _ONE_EACH),
    **dict.fromkeys(("assistant_model", "assistant_early_exit"), _EMBEDDINGS),
    **dict.fromkeys(("prompt_lookup_num_tokens", "guidance_scale"), _EMBEDDINGS),
    **dict.fromkeys(("negative_prompt_ids", "negative_prompt_attention_mask"), _EMBEDDINGS),
    **dict.fromkeys(("inputs", "input_ids", "inputs_embeds", "attention_mask"), _OURS),
    **dict.fromkeys(("position_ids", "cache", "past_key_values", "use_cache"), _OURS),
    **dict.fromkeys(("cache_implementation", "cache_config", "pixel_values"), _OURS),
    "max_length": "give max_new_tokens",
    **dict.fromkeys(("return_dict_in_generate", "output_scores", "output_logits"), _IDS),
    **dict.fromkeys(("output_attentions", "output_hidden_states"), _IDS),
}


def prompt_block(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    starts: Sequence[int] | None = None,
    stops: Sequence[int] | None = None,
) -> Block:
    """Left-padded embeddings and positions of the tokens ``starts[i]:stops[i]`` of each prompt."""
    embeds, positions = [], []
    for row, prompt in enumerate(prompts):
        part = slice(starts[row] if starts else 0, stops[row] if stops else len(prompt))
        embeds.append(backbone.embed(prompt)[part])
        positions.append(backbone.positions(prompt)[..., part])
    return left_pad(embeds, positions)


def check_generate_options(names: Iterable[str]) -> None:
    """Refuse arguments of ``generate()`` that would break an answer, before anything runs.

    Args:
        names: of the arguments.

    Raises:
        ConfigError: names the first, and says why.
    """
    for name in names:
        if reason := _REASONS.get(name):
            raise ConfigError(f"generate() option {name!r} cannot be used here: {reason}")


def generate(
    backbone: Backbone,
    block: Block,
    *,
    max_new_tokens: int,
    prefix: Block | None = None,
    cache: Cache | None = None,
    clock: StageClock | None = None,
    first_stage: str = "prefill",
    after_first_pass: Callable[[], object] | None = None,
    **options: Any,
) -> list[tuple[int, ...]]:
    """Continue the prompts of a block.

    Args:
        backbone: the model.
        block: the prompts, or what follows ``prefix``.
        max_new_tokens: upper limit of the response length, in tokens.
        prefix: tokens that ``cache`` holds already.
        cache: their KV cache; extended in place.
        clock: books the time: the pass over the prompts, and ``decode``, all that follows.
        first_stage: what the former is called.
        after_first_pass: called between the two; what it raises ends the generation.
        options: further arguments of ``generate()`` (``streamer``, ``do_sample`` ...).

    Returns:
        Per prompt the new token ids, without the end token and what follows it.

    Raises:
        ConfigError: the backbone was loaded in part.
        InputError: the sequences would exceed the model's context.
    """
    backbone.check_whole("answering")
    whole = block if prefix is None else join(prefix, block)
    longest = int(whole.mask.sum(dim=1).max())
    backbone.check_context(longest + max_new_tokens)
    clock = clock or StageClock(backbone.device)

    def between() -> None:
        if after_first_pass is not None:
            after_first_pass()
        clock.switch("decode")

    first = _AfterFirstPass(between)
    with clock.stage(first_stage):
        new_ids = backbone.model.generate(
            inputs_embeds=whole.embeds,
            attention_mask=whole.mask,
            position_ids=whole.positions,
            max_new_tokens=max_new_tokens,
            pad_token_id=_pad_token_id(backbone),
            **{
                # Whatever the checkpoint's generation config says.
                "do_sample": False,
                "num_beams": 1,
                **options,
                **cache_argument(cache),
                "logits_processor": [first, *options.get("logits_processor", ())],
            },
        )
    ends = end_token_ids(backbone)
    return [_until_end(row, ends) for row in new_ids.tolist()]


class _AfterFirstPass(LogitsProcessor):
    """Leaves the logits alone, and says once that there are some."""

    def __init__(self, then: Callable[[], object]) -> None:
        self._then: Callable[[], object] | None = then

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._then is not None:
            self._then()
            self._then = None
        return scores


def end_token_ids(backbone: Backbone) -> frozenset[int]:
    """Ids that end a response."""
    ids = backbone.model.generation_config.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)


def _pad_token_id(backbone: Backbone) -> int:
    pad = backbone.model.generation_config.pad_token_id
    if pad is not None:
        return int(pad)
    # Any id does, as what follows the end token is cut off; without one generate() warns each time.
    return min(end_token_ids(backbone), default=0)


def _until_end(ids: list[int], ends: frozenset[int]) -> tuple[int, ...]:
    for index, token in enumerate(ids):
        if token in ends:
            return tuple(ids[:index])
    return tuple(ids)

"""Greedy decoding with stock ``generate()``, on top of a prefix cache or not.

``generate()`` gets the ids of the prompts, with a placeholder per visual token, so that everything
that reads ids (repetition penalties, stopping criteria) finds what it would find in the stock
model's own run. The decoder gets the rows of the prompts in place of these ids' embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, LogitsProcessor
from transformers.generation.streamers import BaseStreamer

from sdrpn_core.runtime.block import Block, join, left_pad
from sdrpn_core.runtime.clock import StageClock
from sdrpn_core.runtime.compat import cache_argument
from sdrpn_core.runtime.generate_options import check_generation_config

if TYPE_CHECKING:
    from transformers import Cache

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt


def prompt_block(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    starts: Sequence[int] | None = None,
    stops: Sequence[int] | None = None,
) -> Block:
    """Left-padded rows, positions and ids of the tokens ``starts[i]:stops[i]`` of each prompt."""
    embeds, positions, ids = [], [], []
    for row, prompt in enumerate(prompts):
        part = slice(starts[row] if starts else 0, stops[row] if stops else len(prompt))
        embeds.append(backbone.embed(prompt)[part])
        positions.append(backbone.positions(prompt)[..., part])
        ids.append(torch.tensor(backbone.token_ids(prompt)[part], dtype=torch.long))
    return left_pad(embeds, positions, ids)


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
        ConfigError: the backbone was loaded in part, or its generation config asks for what cannot
            be done here.
        InputError: the sequences would exceed the model's context.
    """
    backbone.check_whole("answering")
    check_generation_config(backbone.model.generation_config, options)
    whole = block if prefix is None else join(prefix, block)
    if whole.ids is None:
        raise ValueError("the ids of the prompts are unknown")
    longest = int(whole.mask.sum(dim=1).max())
    backbone.check_context(longest + max_new_tokens)
    clock = clock or StageClock(backbone.device)

    def between() -> None:
        if after_first_pass is not None:
            after_first_pass()
        clock.switch("decode")

    if cache is None:
        cache = DynamicCache(config=backbone.text_config)
    if "streamer" in options:
        options = {**options, "streamer": _WithoutPrompt(options["streamer"])}
    first = _AfterFirstPass(between)
    with clock.stage(first_stage), rows_of_prompts(backbone, block, whole.mask):
        sequences = backbone.model.generate(
            whole.ids,
            attention_mask=whole.mask,
            position_ids=whole.positions,
            max_new_tokens=max_new_tokens,
            pad_token_id=_pad_token_id(backbone),
            **{
                # Whatever the checkpoint's generation config says.
                "do_sample": False,
                "num_beams": 1,
                "use_cache": True,
                "cache_implementation": None,
                **options,
                **cache_argument(cache),
                "logits_processor": [first, *options.get("logits_processor", ())],
            },
        )
    ends = end_token_ids(backbone)
    return [_until_end(row, ends) for row in sequences[:, whole.length :].tolist()]


@contextmanager
def rows_of_prompts(backbone: Backbone, block: Block, mask: torch.Tensor) -> Iterator[None]:
    """Hand a block's rows to the decoder in its first call by this thread within the context.

    Args:
        backbone: the model; its call gets the block's ids.
        block: the rows.
        mask: ``(batch, columns)``, cached ones first.

    The call gets the mask in two dimensions, as any other call of the decoder by the core: models
    that prepare masks of their own would prepare them from the ids.
    """
    thread = get_ident()

    def hand_over(
        module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if get_ident() != thread:
            return None
        handle.remove()
        return args, {**kwargs, "inputs_embeds": block.embeds, "attention_mask": mask}

    # Before the hook that takes rows apart.
    handle = backbone.decoder.register_forward_pre_hook(hand_over, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


class _WithoutPrompt(BaseStreamer):
    """Reports an empty prompt to a streamer, whose user knows the question."""

    def __init__(self, streamer: Any) -> None:
        self._streamer = streamer
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        self._streamer.put(value[:, :0] if self._is_prompt else value)
        self._is_prompt = False

    def end(self) -> None:
        self._streamer.end()


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


def positions_of(block: Block, row: int) -> torch.Tensor:
    """Columns of a row's tokens in its block."""
    return torch.arange(int(block.starts[row]), block.length, device=block.mask.device)

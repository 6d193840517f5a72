"""Decoding with stock ``generate()``, with or without a cached prefix.

``generate()`` gets the ids of the prompts, with a placeholder per visual token, so that everything
that reads ids (repetition penalties, stopping criteria) finds what it would find in the stock
model's own run. The decoder gets the rows of the prompts in place of these ids' embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StopStringCriteria,
)

from sdrpn_core.backbone.adapter_parts import checked_positions
from sdrpn_core.backbone.given import check_backbone
from sdrpn_core.backbone.prompt import checked_prompts
from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.block import Block, join, left_pad
from sdrpn_core.runtime.clock import StageClock
from sdrpn_core.runtime.generate_options import (
    DEFAULTS,
    STATIC,
    check_options,
    end_token_ids,
    given_options,
)
from sdrpn_core.runtime.in_place_cache import cache_for
from sdrpn_core.runtime.kv_cache import cache_argument, static_cache
from sdrpn_core.runtime.stopping import RowEnds
from sdrpn_core.runtime.streaming import WithoutPrompt, check_streamer
from sdrpn_core.util.whole_numbers import check_count

if TYPE_CHECKING:
    from transformers import Cache

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt


Observer: TypeAlias = Callable[[torch.Tensor, torch.Tensor], object]
"""Called with the ids so far ``(batch, length)`` and the next tokens' logits, float32."""

#: Most tokens of a response that memory is set aside for in advance; the cache grows with longer
#: ones. So a limit that no answer reaches costs nothing.
_MOST_AHEAD = 512


def prompt_block(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    starts: Sequence[int] | None = None,
) -> Block:
    """Left-padded rows, positions and ids of each prompt, from its token ``starts[i]`` on.

    Args:
        backbone: the model.
        prompts: a batch, as :meth:`Backbone.encode` gives it.
        starts: per prompt the first token; default: that of the prompt.

    Raises:
        InputError: no list of prompts, or an entry that is no :class:`Prompt`.
        ConfigError: not a backbone, or an adapter's positions are not one per token.
    """
    check_backbone(backbone)
    embeds, positions, ids = [], [], []
    for row, prompt in enumerate(checked_prompts(prompts)):
        start = starts[row] if starts else 0
        embeds.append(backbone.embed(prompt)[start:])
        whole = checked_positions(backbone.positions(prompt), prompt, backbone.name)
        positions.append(whole[..., start:])
        ids.append(torch.tensor(backbone.token_ids(prompt)[start:], dtype=torch.long))
    return left_pad(embeds, positions, ids)


def columns_needed(length: int, max_new_tokens: int) -> int:
    """How many tokens a cache should have room for.

    Args:
        length: of the prompts.
        max_new_tokens: upper limit of the response length.
    """
    return length + min(max_new_tokens, _MOST_AHEAD)


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
    observer: Observer | None = None,
    cache_implementation: str | None = None,
    **options: Any,
) -> list[tuple[int, ...]]:
    """Continue the prompts of a block.

    Args:
        backbone: the model.
        block: the prompts, or what follows ``prefix``.
        max_new_tokens: upper limit of the response length, in tokens.
        prefix: tokens that ``cache`` holds already.
        cache: their KV cache; extended in place.
        clock: times two stages: the pass over the prompts, and ``decode``, the rest.
        first_stage: name of the first one.
        after_first_pass: called between the two; an exception that it raises ends generation.
        observer: called at every step with the ids so far and the model's own logits, before
            penalties, bans and temperatures change them.
        cache_implementation: of a cache that is made here. ``None`` grows in place. ``"static"``
            has a fixed size: on CUDA, stock ``generate()`` then compiles the decoding step. Answers
            are equal up to rounding.
        options: further arguments of ``generate()`` (``streamer``, ``do_sample`` ...).

    Returns:
        Per prompt the new token ids, up to the end token, which is left out.

    Raises:
        ConfigError: an argument is of another kind or out of range, the backbone is only partially
            loaded, its generation config asks for what cannot be done here, or an option is unknown
            or cannot be passed on.
        InputError: the sequences would exceed the model's context.
    """
    check_backbone(backbone)
    backbone.check_whole("answering")
    if not isinstance(block, Block):
        raise ConfigError(
            f"the block must be a Block, not {type(block).__name__}: write prompt_block(backbone, "
            "backbone.encode(questions))"
        )
    check_count(max_new_tokens, "max_new_tokens")
    options = given_options(options)
    check_options(backbone.model, options)
    check_streamer(options.get("streamer"), len(block.embeds))
    whole = block if prefix is None else join(prefix, block)
    if whole.ids is None:
        raise ValueError("the ids of the prompts are unknown")
    backbone.check_context(max(whole.lengths) + max_new_tokens)
    clock = clock or StageClock(backbone.device)

    def between() -> None:
        if after_first_pass is not None:
            after_first_pass()
        clock.switch("decode")

    if cache is None:
        cache = _new_cache(backbone, whole.length, max_new_tokens, cache_implementation)
    if "streamer" in options:
        options = {**options, "streamer": WithoutPrompt(options["streamer"])}
    if observer is not None:
        options = {**options, "custom_generate": _observed(observer, options)}
    first = _AfterFirstPass(between)
    criteria = _stopping_criteria(backbone, options)
    row_ends = RowEnds(criteria, whole.length)
    with clock.stage(first_stage), rows_of_prompts(backbone, block, whole.mask):
        sequences = backbone.model.generate(
            whole.ids,
            attention_mask=whole.mask,
            position_ids=whole.positions,
            max_new_tokens=max_new_tokens,
            pad_token_id=_pad_token_id(backbone, options),
            **{
                **DEFAULTS,
                **options,
                "cache_implementation": None,
                **cache_argument(cache),
                "logits_processor": [first, *options.get("logits_processor", ())],
                "stopping_criteria": [row_ends] if criteria else [],
                "stop_strings": None,  # among the criteria
            },
        )
    ends = end_token_ids(backbone, options)
    responses = row_ends.cut(sequences[:, whole.length :].tolist())
    return [_until_end(row, ends) for row in responses]


def _new_cache(
    backbone: Backbone, length: int, max_new_tokens: int, implementation: str | None
) -> Cache:
    if implementation == STATIC:
        return static_cache(backbone.text_config, length + max_new_tokens)
    return cache_for(backbone.text_config, columns_needed(length, max_new_tokens))


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
        module: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if get_ident() != thread or kwargs is None:
            return None
        handle.remove()
        return args, {**kwargs, "inputs_embeds": block.embeds, "attention_mask": mask}

    # Before the hook that takes rows apart.
    handle = backbone.decoder.register_forward_pre_hook(hand_over, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def _observed(observer: Observer, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Stock decoding token by token, whose logits an observer sees first.

    ``generate()`` puts the processors of a call behind its own. Hooks would see the model's logits,
    too, but not those of a compiled step. So ``generate()`` prepares everything as ever, and hands
    over to this in place of its decoding, which then runs with one more processor in front.

    Args:
        observer: see :func:`generate`.
        options: arguments of ``generate()``.
    """
    # Those for decoding alone are not handed to a custom one.
    own = {name: options[name] for name in ("streamer", "synced_gpus") if name in options}

    def decode(
        model: Any, input_ids: torch.Tensor, logits_processor: LogitsProcessorList, **others: Any
    ) -> Any:
        processors = LogitsProcessorList([_Observing(observer), *logits_processor])
        return model._sample(input_ids, logits_processor=processors, **own, **others)

    return decode


class _Observing(LogitsProcessor):
    """Shows logits to an observer; leaves them unchanged."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._observer(input_ids, scores)
        return scores


class _AfterFirstPass(LogitsProcessor):
    """Calls a function once, when the logits of the first pass exist; leaves them unchanged."""

    def __init__(self, then: Callable[[], object]) -> None:
        self._then: Callable[[], object] | None = then

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._then is not None:
            self._then()
            self._then = None
        return scores


def _pad_token_id(backbone: Backbone, options: Mapping[str, Any]) -> int:
    pad = backbone.model.generation_config.pad_token_id
    if pad is not None:
        return int(pad)
    # Any id will do, because ids after the end token are dropped; without one generate() warns.
    return min(end_token_ids(backbone, options), default=0)


def _stopping_criteria(backbone: Backbone, options: Mapping[str, Any]) -> list[StoppingCriteria]:
    """What ends single rows, besides end tokens: the caller's criteria, and stop strings."""
    config = backbone.model.generation_config
    strings = {"stop_strings": config.stop_strings, **options}["stop_strings"]
    criteria = list(options.get("stopping_criteria", ()))
    if strings is not None:
        tokenizer = options.get("tokenizer", backbone.tokenizer)
        criteria.append(StopStringCriteria(tokenizer, strings))
    return criteria


def _until_end(ids: list[int], ends: frozenset[int]) -> tuple[int, ...]:
    for index, token in enumerate(ids):
        if token in ends:
            return tuple(ids[:index])
    return tuple(ids)

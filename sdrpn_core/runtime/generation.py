"""Decoding with stock ``generate()``, with or without a cached prefix.

``generate()`` gets the ids of the prompts, with a placeholder per visual token, so that everything
that reads ids (repetition penalties, stopping criteria) finds what it would find in the stock
model's own run. The decoder gets the rows of the prompts in place of these ids' embeddings.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import (
    GenerationConfig,
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
from sdrpn_core.runtime.buckets import buckets
from sdrpn_core.runtime.clock import StageClock
from sdrpn_core.runtime.in_place_cache import cache_for
from sdrpn_core.runtime.kv_cache import cache_argument, static_cache
from sdrpn_core.runtime.stopping import RowEnds
from sdrpn_core.runtime.streaming import WithoutPrompt, check_streamer
from sdrpn_core.util.whole_numbers import check_count

if TYPE_CHECKING:
    from transformers import Cache, GenerationConfig, PreTrainedModel

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt


Observer: TypeAlias = Callable[[torch.Tensor, torch.Tensor], object]
"""Called with the ids so far ``(batch, length)`` and the next tokens' logits, float32."""

_ONE_EACH = "every question has one response, decoded token by token"
_EMBEDDINGS = "it would run on the ids of the prompt, which consists of embeddings"
_ONE_PASS = "a prompt runs in one pass"
_OURS = "sdrpn sets it"
_IDS = "of what generate() returns, an answer holds the token ids"

_REASONS = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), _ONE_EACH),
    **dict.fromkeys(("constraints", "force_words_ids", "penalty_alpha"), _ONE_EACH),
    **dict.fromkeys(("assistant_model", "assistant_early_exit"), _EMBEDDINGS),
    **dict.fromkeys(("prompt_lookup_num_tokens", "guidance_scale"), _EMBEDDINGS),
    **dict.fromkeys(("negative_prompt_ids", "negative_prompt_attention_mask"), _EMBEDDINGS),
    "prefill_chunk_size": _ONE_PASS,
    **dict.fromkeys(("inputs", "input_ids", "inputs_embeds", "attention_mask"), _OURS),
    **dict.fromkeys(("position_ids", "cache", "past_key_values", "use_cache"), _OURS),
    **dict.fromkeys(("cache_config", "pixel_values"), _OURS),
    "max_length": "give max_new_tokens",
    "generation_config": "give its values as arguments",
    **dict.fromkeys(("return_dict_in_generate", "output_scores", "output_logits"), _IDS),
    **dict.fromkeys(("output_attentions", "output_hidden_states"), _IDS),
}

#: The value of ``cache_implementation`` that makes stock ``generate()`` compile a decoding step on
#: devices that gain by it (CUDA graphs, unless ``compile_config`` says otherwise).
STATIC = "static"

#: Most tokens of a response that memory is set aside for in advance; the cache grows with longer
#: ones. So a limit that no answer reaches costs nothing.
_MOST_AHEAD = 512

#: Where the caller says nothing else, whatever the checkpoint's generation config says.
_DEFAULTS: Mapping[str, Any] = {"do_sample": False, "num_beams": 1, "use_cache": True}

#: Fields of a generation config that cannot be served, nor be ignored: answers would be others.
_UNSERVED = ("penalty_alpha", "guidance_scale", "prompt_lookup_num_tokens", "prefill_chunk_size")

#: What a generation config can set.
_FIELDS = frozenset(GenerationConfig().to_dict())

#: Options that read the ids of a prompt or count its tokens, padding between them included, and
#: the values that switch them off.
_READS_PROMPT: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), (None, 1.0)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), (None, 0)),
    **dict.fromkeys(("min_length",), (None, 0)),
    **dict.fromkeys(("bad_words_ids", "sequence_bias", "watermarking_config"), (None,)),
    **dict.fromkeys(("stop_strings", "prefix_allowed_tokens_fn"), (None,)),
    **dict.fromkeys(("logits_processor", "stopping_criteria"), (None,)),
}


def prompt_block(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    starts: Sequence[int] | None = None,
    stops: Sequence[int] | None = None,
) -> Block:
    """Left-padded rows, positions and ids of the tokens ``starts[i]:stops[i]`` of each prompt.

    Args:
        backbone: the model.
        prompts: a batch, as :meth:`Backbone.encode` gives it.
        starts: per prompt the first token; default: that of the prompt.
        stops: per prompt the token behind the last one; default: the prompt's end.

    Raises:
        InputError: no list of prompts, or an entry that is no :class:`Prompt`.
        ConfigError: what is no backbone, or an adapter's positions are not one per token.
    """
    check_backbone(backbone)
    embeds, positions, ids = [], [], []
    for row, prompt in enumerate(checked_prompts(prompts)):
        part = slice(starts[row] if starts else 0, stops[row] if stops else len(prompt))
        embeds.append(backbone.embed(prompt)[part])
        whole = checked_positions(backbone.positions(prompt), prompt, backbone.name)
        positions.append(whole[..., part])
        ids.append(torch.tensor(backbone.token_ids(prompt)[part], dtype=torch.long))
    return left_pad(embeds, positions, ids)


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``generate()`` without those that are ``None``, which means that none is given.

    Fields of a generation config stay: there ``None`` outweighs what the model's own one says.

    Args:
        options: the arguments.
    """
    return {name: one for name, one in options.items() if one is not None or name in _FIELDS}


def check_generate_options(options: Mapping[str, Any]) -> None:
    """Check for arguments of ``generate()`` that cannot be passed on, before anything runs.

    Args:
        options: the arguments.

    Raises:
        ConfigError: there is one; names it and the reason.
    """
    for name in options:
        if reason := _REASONS.get(name):
            raise ConfigError(f"generate() option {name!r} cannot be used here: {reason}")
    implementation = options.get("cache_implementation")
    if implementation not in (None, STATIC):
        raise ConfigError(
            f"cache_implementation must be {STATIC!r} or None (a cache that grows in place), not "
            f"{implementation!r}"
        )


def check_options(model: PreTrainedModel, options: Mapping[str, Any]) -> None:
    """Check that arguments of ``generate()`` can be passed on, and that this model's takes them.

    Stock ``generate()`` would say so only after the prefix has run.

    Args:
        model: the stock model.
        options: the arguments.

    Raises:
        ConfigError: see :func:`check_generate_options`; or the model knows none of that name (names
            a near one), or refuses a value.
    """
    check_generate_options(options)
    if not options:
        return
    config = copy.deepcopy(model.generation_config)
    try:
        rest = config.update(**{**_DEFAULTS, **options})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"generate() refuses its options: {error}") from error
    # What is no field of the configuration may be an argument of its own, or one of the model.
    generate: Callable[..., Any] = model.generate  # type: ignore[assignment]
    own = {*inspect.signature(generate).parameters, "tokenizer"}
    known = own | set(inspect.signature(model.forward).parameters)
    for name in rest:
        if name not in known:
            near = difflib.get_close_matches(name, {*vars(config), *own}, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see GenerationConfig of transformers"
            raise ConfigError(f"generate() has no argument {name!r}: {hint}")


def columns_needed(length: int, max_new_tokens: int) -> int:
    """How many tokens a cache should have room for.

    Args:
        length: of the prompts.
        max_new_tokens: upper limit of the response length.
    """
    return length + min(max_new_tokens, _MOST_AHEAD)


def check_generation_config(config: GenerationConfig | None, options: Mapping[str, Any]) -> None:
    """Refuse what a checkpoint's generation config asks for and cannot be done.

    Args:
        config: of the model.
        options: arguments of ``generate()``, which outweigh it.

    Raises:
        ConfigError: names the field, and says why.
    """
    for name in _UNSERVED:
        value = options.get(name, getattr(config, name, None))
        if value not in (None, 1.0):
            raise ConfigError(
                f"the model's generation config sets {name!r} to {value}, which cannot be done "
                f"here: {_REASONS[name]}"
            )


def reads_prompts(config: GenerationConfig | None, options: Mapping[str, Any]) -> bool:
    """Whether anything reads the ids of the prompts, so that a batch may hold no padding.

    Args:
        config: of the model.
        options: arguments of ``generate()``, which outweigh it.
    """
    return any(
        options.get(name, getattr(config, name, None)) not in neutral
        for name, neutral in _READS_PROMPT.items()
    )


def batches_without_padding(
    backbone: Backbone, lengths: Sequence[tuple[int, ...]]
) -> list[list[int]] | None:
    """Which sequences can be continued together where something reads prompts, as indices.

    Args:
        backbone: the model; its generation config alone decides.
        lengths: of the sequences, block by block.

    Returns:
        Batches of equal lengths; ``None`` if nothing reads prompts, so that padding does no harm.
    """
    if not reads_prompts(backbone.model.generation_config, {}):
        return None
    return buckets(lengths, len(lengths), 0.0, holes=False)


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
    check_generation_config(backbone.model.generation_config, options)
    whole = block if prefix is None else join(prefix, block)
    if whole.ids is None:
        raise ValueError("the ids of the prompts are unknown")
    backbone.check_context(max(whole.lengths) + max_new_tokens)
    clock = clock or StageClock(backbone.device)

    def between() -> None:
        if after_first_pass is not None:
            after_first_pass()
        clock.switch("decode")

    if cache is None and cache_implementation == STATIC:
        cache = static_cache(backbone.text_config, whole.length + max_new_tokens)
    elif cache is None:
        n_columns = columns_needed(whole.length, max_new_tokens)
        cache = cache_for(backbone.text_config, n_columns)
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
                **_DEFAULTS,
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


def end_token_ids(backbone: Backbone, options: Mapping[str, Any] | None = None) -> frozenset[int]:
    """Ids that end a response.

    Args:
        backbone: the model.
        options: arguments of ``generate()``, which outweigh the model's generation config.
    """
    config = backbone.model.generation_config
    ids = {"eos_token_id": config.eos_token_id, **(options or {})}["eos_token_id"]
    if ids is None:
        return frozenset()
    return frozenset(torch.as_tensor(ids).flatten().tolist())


def _pad_token_id(backbone: Backbone, options: Mapping[str, Any]) -> int:
    pad = backbone.model.generation_config.pad_token_id
    if pad is not None:
        return int(pad)
    # Any id will do, because ids after the end token are dropped; without one generate() warns.
    return min(end_token_ids(backbone, options), default=0)


def _stopping_criteria(backbone: Backbone, options: Mapping[str, Any]) -> list[StoppingCriteria]:
    """What ends single rows, beside end tokens: the caller's criteria, and stop strings."""
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

"""Arguments of stock ``generate()``: which are passed on, and what they say of a batch."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.buckets import buckets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sdrpn_core.backbone.adapter import Backbone

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

#: Where the caller says nothing else, whatever the checkpoint's generation config says.
DEFAULTS: Mapping[str, Any] = {"do_sample": False, "num_beams": 1, "use_cache": True}

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
            a near one), or refuses a value, or its generation config asks for what cannot be done.
    """
    check_generate_options(options)
    _check_generation_config(model.generation_config)
    if not options:
        return
    config = copy.deepcopy(model.generation_config)
    try:
        rest = config.update(**{**DEFAULTS, **options})
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


def _check_generation_config(config: GenerationConfig | None) -> None:
    """Refuse what a checkpoint's generation config asks for and cannot be done."""
    for name in _UNSERVED:
        value = getattr(config, name, None)
        if value not in (None, 1.0):
            raise ConfigError(
                f"the model's generation config sets {name!r} to {value}, which cannot be done "
                f"here ({_REASONS[name]}): set model.generation_config.{name} = None"
            )

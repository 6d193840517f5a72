"""Which arguments of ``generate()`` cannot be passed on, and why; and which read a whole prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import GenerationConfig

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
    **dict.fromkeys(("cache_implementation", "cache_config", "pixel_values"), _OURS),
    "max_length": "give max_new_tokens",
    **dict.fromkeys(("return_dict_in_generate", "output_scores", "output_logits"), _IDS),
    **dict.fromkeys(("output_attentions", "output_hidden_states"), _IDS),
}

#: Fields of a generation config that cannot be served, nor be ignored: answers would be others.
_UNSERVED = ("penalty_alpha", "guidance_scale", "prompt_lookup_num_tokens", "prefill_chunk_size")

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

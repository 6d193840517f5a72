"""Which arguments of ``generate()`` cannot be passed on, and why."""

from __future__ import annotations

from collections.abc import Iterable

from sdrpn_core.errors import ConfigError

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

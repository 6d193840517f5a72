"""Which decoders can be served exactly, by their configuration: the rest is refused at load."""

from __future__ import annotations

from typing import Any

from sdrpn_core.backbone.decoder import FULL_ATTENTION, SLIDING_ATTENTION, attention_kinds
from sdrpn_core.errors import ConfigError

#: Kinds of attention whose keys and values can be taken from one sequence to another.
_SERVED_KINDS = {FULL_ATTENTION, SLIDING_ATTENTION}

#: What ``use_bidirectional_attention`` says of a decoder whose text is causal. Some configurations
#: have a word for that an image's tokens attend to each other, which is served.
_CAUSAL_TEXT = (None, False, "vision")


def check_served(config: Any) -> None:
    """Refuse a model that would give other answers than its stock class.

    Args:
        config: of the whole model.

    Raises:
        ConfigError: names the model type and the reason.
    """
    text = config.get_text_config()
    if config.is_encoder_decoder or getattr(text, "is_encoder_decoder", False):
        _refuse(config, "it is an encoder-decoder, whose decoder has no visual tokens to score")
    if getattr(text, "cross_attention_layers", None):
        _refuse(config, "it sees images by cross-attention, without visual tokens to score")
    if getattr(text, "use_bidirectional_attention", None) not in _CAUSAL_TEXT:
        _refuse(
            config,
            "its text attends both ways, so what the image's prefix holds depends on the question",
        )
    if others := sorted(set(attention_kinds(text)) - _SERVED_KINDS):
        _refuse(
            config,
            f"its decoder has {', '.join(others)} layers, whose state cannot be kept of a prefix",
        )


def _refuse(config: Any, reason: str) -> None:
    raise ConfigError(f"models of type {config.model_type!r} cannot be served: {reason}")

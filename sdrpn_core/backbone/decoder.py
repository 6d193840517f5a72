"""The parts of a decoder that the core accesses, with a clear error where they are missing."""

from __future__ import annotations

from typing import Any

from torch import nn

from sdrpn_core.errors import ConfigError

#: Kind of a layer that attends to everything before a token.
FULL_ATTENTION = "full_attention"
#: Kind of a layer that attends to the last few tokens before one.
SLIDING_ATTENTION = "sliding_attention"


def decoder_layers(decoder: nn.Module) -> nn.ModuleList:
    """The decoder's layers, first to last.

    Raises:
        ConfigError: it is no module, or keeps them elsewhere than in ``layers``.
    """
    if not isinstance(decoder, nn.Module):
        raise ConfigError(
            f"the decoder must be a module, not {type(decoder).__name__}: give backbone.decoder"
        )
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ConfigError(
            f"the decoder {type(decoder).__name__} has no list of layers to tap: give "
            "backbone.decoder"
        )
    return layers


def layer_kinds(decoder: nn.Module) -> list[str]:
    """Per decoder layer the kind of its attention, such as ``sliding_attention``.

    Layers of one kind are called with one mask and one set of rotary embeddings.
    """
    n_layers = len(decoder_layers(decoder))
    config = getattr(decoder, "config", None)
    kinds = attention_kinds(config)
    return kinds[:n_layers] if len(kinds) > 1 else kinds * n_layers


def attention_kinds(config: Any) -> list[str]:
    """Per layer of a decoder's configuration the kind of its attention; one entry: of all layers.

    Some configurations list kinds, others have a window, which may be switched off, for all.
    """
    if kinds := getattr(config, "layer_types", None):
        return [str(kind) for kind in kinds]
    window = getattr(config, "sliding_window", None)
    return [
        SLIDING_ATTENTION
        if window and getattr(config, "use_sliding_window", True)
        else FULL_ATTENTION
    ]


def part(module: nn.Module, name: str) -> nn.Module:
    """A submodule by name, such as a layer's ``self_attn``.

    Raises:
        ConfigError: there is none.
    """
    found = getattr(module, name, None)
    if not isinstance(found, nn.Module):
        raise ConfigError(f"{type(module).__name__} has no part {name!r}, which sdrpn relies on")
    return found

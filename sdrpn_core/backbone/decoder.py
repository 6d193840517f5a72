"""The parts of a decoder that the core accesses, with a clear error where they are missing."""

from __future__ import annotations

from torch import nn

from sdrpn_core.errors import ConfigError


def decoder_layers(decoder: nn.Module) -> nn.ModuleList:
    """The decoder's layers, first to last.

    Raises:
        ConfigError: it keeps them elsewhere than in ``layers``.
    """
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ConfigError(f"the decoder {type(decoder).__name__} has no list of layers to tap")
    return layers


def part(module: nn.Module, name: str) -> nn.Module:
    """A submodule by name, such as a layer's ``self_attn``.

    Raises:
        ConfigError: there is none.
    """
    found = getattr(module, name, None)
    if not isinstance(found, nn.Module):
        raise ConfigError(f"{type(module).__name__} has no part {name!r}, which sdrpn relies on")
    return found

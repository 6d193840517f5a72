"""Bypass the first layers of a decoder, for hidden states that have been through them already."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from sdrpn_core.backbone.decoder import decoder_layers


class _BypassedLayer(nn.Module):
    """Returns its input; every attribute is that of the layer it replaces.

    Decoders read attributes of their layers, such as the kind of attention, before they call them.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._original = (layer,)  # in a tuple, or else it would be registered as a child

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._original[0], name)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states


def without_layers(decoder: nn.Module, n_layers: int) -> nn.Module:
    """A decoder that passes over the first layers; the given one stays as it is.

    A shallow copy: parameters, configuration and all other modules are those of the original, which
    goes on serving others meanwhile. What the decoder itself computes for a layer (mask, rotary
    embeddings) reaches the next layer as ever.

    Args:
        decoder: a decoder with a ``layers`` list.
        n_layers: how many to bypass.
    """
    layers = decoder_layers(decoder)
    shortened = copy.copy(decoder)
    # Or else the copy would share the list of its modules with the original.
    shortened._modules = dict(decoder._modules)
    shortened.layers = nn.ModuleList([*map(_BypassedLayer, layers[:n_layers]), *layers[n_layers:]])
    # A device map puts a forward() on a module that runs the original: its layers are not skipped.
    vars(shortened).pop("forward", None)
    return shortened

"""Bypass the first layers of a decoder, for hidden states that have been through them already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def bypassed_layers(decoder: nn.Module, n_layers: int) -> Iterator[None]:
    """Bypass the first decoder layers within the block; afterwards they are back in place.

    What the decoder itself computes for a layer (mask, rotary embeddings) reaches the next layer as
    ever. Not for several threads at a time on one decoder.

    Args:
        decoder: a decoder with a ``layers`` list.
        n_layers: how many to bypass.
    """
    layers = decoder_layers(decoder)
    originals = list(layers[:n_layers])
    for index, layer in enumerate(originals):
        layers[index] = _BypassedLayer(layer)
    try:
        yield
    finally:
        for index, layer in enumerate(originals):
            layers[index] = layer

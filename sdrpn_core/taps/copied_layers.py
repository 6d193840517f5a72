"""Copies of decoder layers, and running them on tapped features as the decoder runs its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from accelerate.hooks import remove_hook_from_module
from accelerate.utils import send_to_device
from torch.utils.checkpoint import checkpoint

from sdrpn_core.runtime.kv_cache import cache_argument
from sdrpn_core.taps.thread_hooks import hooks_at_rest

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import Cache

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.taps.feature_tap import Features


def copy_layers(backbone: Backbone, first: int, count: int) -> list[nn.Module]:
    """Copies of decoder layers ``first`` .. ``first + count - 1``, without a device map's hooks.

    Args:
        backbone: where the copies come from.
        first: the first layer.
        count: how many.
    """
    # The copies share the decoder's config, so that they follow its attention implementation.
    shared = {id(backbone.text_config): backbone.text_config}
    with hooks_at_rest():  # other threads may be tapping the layers
        return [
            # A model spread by a device map carries hooks that a trainable copy must not run.
            remove_hook_from_module(copy.deepcopy(layer, dict(shared)), recurse=True)
            for layer in backbone.layers[first : first + count]
        ]


def run_layers(
    layers: Sequence[nn.Module],
    features: Features,
    weight: torch.Tensor,
    cache: Cache | None = None,
    *,
    checkpointing: bool = False,
) -> torch.Tensor:
    """Run copies of the layers B, B + 1, ... on what reached layer B.

    Args:
        layers: the copies, in order.
        features: tapped features, of whole sequences or of what follows those in ``cache``.
        weight: whose device and dtype the copies have.
        cache: the copies' own keys and values; extended in place.
        checkpointing: recompute the layers' activations in the backward pass.

    Returns:
        ``(batch, length, hidden)``.
    """
    own: dict[str, Any] = {**cache_argument(cache), "use_cache": cache is not None}
    hidden = features.hidden.to(weight)
    for offset, layer in enumerate(layers):
        kwargs = {**send_to_device(features.kwargs_of(offset), weight.device), **own}
        if checkpointing:
            hidden = checkpoint(layer, hidden, use_reentrant=False, **kwargs)
        else:
            hidden = layer(hidden, **kwargs)
    return hidden

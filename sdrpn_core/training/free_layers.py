"""Drop what training never runs from a loaded backbone."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone


def truncate(backbone: Backbone, n_layers: int) -> None:
    """Free the decoder layers from ``n_layers`` on, the final norm and the vocabulary head.

    In place and for good: afterwards the backbone runs its first ``n_layers`` layers under a
    :class:`~sdrpn_core.taps.feature_tap.FeatureTap`, and can neither answer nor lend layers to a
    new RPN. Layer ``n_layers`` stays as an empty shell without weights, because the tap that stops
    the pass sits on it and decoders read attributes of their layers before they call them. The
    model's config is left alone: it still says what the backbone is.

    Args:
        backbone: loaded model.
        n_layers: layers to keep; nothing is freed if it has no more than these.
    """
    layers = backbone.layers
    if n_layers >= len(layers):
        return
    del layers[n_layers + 1 :]
    shell = layers[n_layers]
    for name, _ in list(shell.named_children()):
        delattr(shell, name)
    if hasattr(backbone.decoder, "norm"):
        backbone.decoder.norm = nn.Identity()
    if backbone.model.get_output_embeddings() is not None:
        backbone.model.set_output_embeddings(nn.Identity())
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

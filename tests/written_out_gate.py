"""A gate's logit from its definition, one question at a time, through stock layers."""

from __future__ import annotations

import math
from typing import Any

import torch

from sdrpn_core.rpn.model import RPN
from sdrpn_core.runtime.block import image_places


def written_out_logit(rpn: RPN, prompt: Any, block: Any, features: Any) -> torch.Tensor:
    """The logit of one prompt.

    Args:
        rpn: with a gate, and a map of logits (no distribution).
        prompt: one question, about one image.
        block: the prompt alone.
        features: of the block, at the branch layer.
    """
    hidden = features.hidden
    for layer in rpn.gate.layers or rpn.layers:
        hidden = layer(hidden, **features.layer_kwargs)
    last = hidden[0, -1]
    if rpn.gate.layers:
        return rpn.gate.head(last)[0]
    places = image_places([prompt], block)
    (place,) = places
    with torch.no_grad():
        cells = rpn(features, places).scores[0].sigmoid()
    visual = hidden[0, place.start : place.start + place.n_tokens]
    state = (cells[:, None] ** 2 * visual).sum(0) / (cells**2).sum()
    share = (cells > cells.max() / 2).float().mean()
    equal = cells.sum() ** 2 / (cells**2).sum() / len(cells)

    def normalized(vector: torch.Tensor) -> torch.Tensor:
        variance = vector.var(unbiased=False)
        return (vector - vector.mean()) / torch.sqrt(variance + 1e-5)

    extent = torch.stack([share, equal, cells.max()])
    read = torch.cat([normalized(last), normalized(state), extent])
    head = rpn.gate.head
    if rpn.config.gate.name == "mlp":
        inner = head.fc1.weight @ read + head.fc1.bias
        read = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        head = head.fc2
    return head.weight[0] @ read + head.bias[0]

"""The optimizer of the embedded backbones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from timm.optim.muon import Muon
from torch import nn
from torch.optim import Optimizer

BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01
OTHER_LR = 0.375
"""Learning rate of everything that is not a matrix of a layer, relative to that of the matrices."""
FLAT_SHARE = 0.6
"""Share of a stage at the peak learning rate, after which it falls to ``FINAL_LR``."""
WARM_UP_STEPS = 50
FINAL_LR = 0.02
"""Learning rate at the end of a stage, relative to its peak."""


def make_optimizer(
    modules: Iterable[nn.Module], heads: Iterable[nn.Module], lr: float
) -> Optimizer:
    """Muon for the matrices of the layers, AdamW for embeddings, heads, filters and vectors.

    With AdamW alone, the encoders learned no characters in 1,500 steps (docs/glyphs.md).

    Args:
        modules: what is trained.
        heads: linear layers among it that give scores, like embeddings the other way round.
        lr: peak learning rate of the matrices.
    """
    scores = {id(head.weight) for head in heads}
    parts = [part for module in modules for part in module.modules()]
    matrices = {
        id(part.weight): part.weight
        for part in parts
        if isinstance(part, nn.Linear) and id(part.weight) not in scores
    }
    others = {
        id(parameter): parameter
        for part in parts
        for parameter in part.parameters(recurse=False)
        if id(parameter) not in matrices
    }
    groups: list[dict[str, Any]] = [
        {"params": list(matrices.values())},
        {"params": list(others.values()), "lr": OTHER_LR * lr, "use_fallback": True},
    ]
    return Muon(groups, lr=lr, betas=BETAS, weight_decay=WEIGHT_DECAY)


def learning_rate(step: int, total: int) -> float:
    """Linear warm-up, a plateau, then a linear descent to ``FINAL_LR``; relative to the peak."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    falling = (1 - FLAT_SHARE) * total
    return max(FINAL_LR, min(1.0, (total - step) / max(1.0, falling)))

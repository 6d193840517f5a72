"""The loss of what the cells show."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..losses import PRESENCE_WEIGHT
from .patch_labels import LABELS


def group_losses(
    scores: dict[str, torch.Tensor], labels: torch.Tensor, known: torch.Tensor
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """Compute the loss of scores ``{group: (cells, labels of the group)}``, and accuracies.

    Binary cross-entropy for the colors on every cell, so that the background gets none, and
    cross-entropy for each group on the cells with exactly one of its labels.
    """
    scores = {group: score.float() for group, score in scores.items()}
    presence = labels[..., LABELS["color"]].float()
    loss = PRESENCE_WEIGHT * F.binary_cross_entropy_with_logits(scores["color"], presence)
    accuracy = {}
    for group, score in scores.items():
        own = labels[..., LABELS[group]] * known[..., LABELS[group]]
        single = own.sum(-1) == 1
        if not single.any():
            continue
        score, truth = score[single], own[single].argmax(-1)
        loss = loss + F.cross_entropy(score, truth)
        accuracy[f"cells: {group}"] = [(score.argmax(-1) == truth).float().mean().item()]
    return loss, accuracy

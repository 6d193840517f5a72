"""Losses between RoI scores and labels.

Each returns a sum and the number of cells that it runs over, because the published mean is taken
over all valid cells of the *global* batch: sums can be added over micro-batches and processes,
means cannot.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from sdrpn_core.labels.pseudo import IGNORE

#: Focal loss constants of the published code.
FOCAL_GAMMA = 2.0
FOCAL_ALPHA = 0.9

#: The published mse loss compares percentages.
MSE_SCALE = 100.0

LossSum = tuple[torch.Tensor, torch.Tensor]


def bce_loss(scores: torch.Tensor, labels: torch.Tensor) -> LossSum:
    """Binary cross-entropy on logits.

    Args:
        scores: ``(images, n)`` logits.
        labels: ``(images, n)`` in [0, 1], or -100, which is left out. Pseudo-labels are 0 or 1.
    """
    valid = labels != IGNORE
    losses = F.binary_cross_entropy_with_logits(
        scores, labels.clamp(min=0).to(scores.dtype), reduction="none"
    )
    return (losses * valid).sum(), valid.sum()


def focal_loss(scores: torch.Tensor, labels: torch.Tensor) -> LossSum:
    """Focal loss, gamma 2, weight 0.9 for foreground and 0.1 for background (published code).

    Args:
        scores: ``(images, n)`` logits.
        labels: ``(images, n)`` in {-100, 0, 1}.
    """
    valid = labels != IGNORE
    targets = labels.clamp(min=0).to(scores.dtype)
    losses = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    probability = torch.exp(-losses)  # of the true class
    alpha = torch.where(targets > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    return (alpha * (1 - probability) ** FOCAL_GAMMA * losses * valid).sum(), valid.sum()


def mse_loss(scores: torch.Tensor, labels: torch.Tensor) -> LossSum:
    """Squared error between distributions over the visual tokens, in percent.

    Unlike the published code, ignored cells count neither in the target nor in the loss, and an
    image without foreground is left out instead of dividing by zero (see docs/fidelity.md).

    Args:
        scores: ``(images, n)`` distributions.
        labels: as for :func:`bce_loss`.
    """
    foreground = labels.clamp(min=0).to(scores.dtype)
    total = foreground.sum(dim=1, keepdim=True)
    valid = (labels != IGNORE) & (total > 0)
    target = foreground / torch.where(total > 0, total, 1)
    losses = (MSE_SCALE * (scores - target)) ** 2
    return (losses * valid).sum(), valid.sum()


LOSS_FUNCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], LossSum]] = {
    "bce": bce_loss,
    "focal": focal_loss,
    "mse": mse_loss,
}

"""The gate's loss: binary cross-entropy over the questions whose label is not ignored."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from sdrpn_core.labels.pseudo import IGNORE


def gate_loss(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross-entropy on logits, as a sum and the number of questions it runs over.

    Sums can be added over micro-batches and processes; the mean of an all-ignored batch, which the
    published code makes NaN, is then a matter of leaving it out.

    Args:
        logits: ``(batch,)``.
        targets: ``(batch,)`` float, probabilities from 0 to 1, or -100 for questions to leave out.
    """
    valid = targets != IGNORE
    losses = F.binary_cross_entropy_with_logits(
        logits.float(), targets.clamp(min=0).float(), reduction="none"
    )
    return (losses * valid).sum(), valid.sum()

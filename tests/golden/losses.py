"""What a loss must be where it is not the published one (docs/fidelity.md)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sdrpn_core.labels.pseudo import IGNORE

PERCENT = 100


def labeled_mse(scores: Iterable[np.ndarray], labels: Iterable[np.ndarray]) -> float:
    """Mean squared error of the percentages over the cells that have a label.

    Args:
        scores: per image its distribution over the cells.
        labels: per image 1, 0 or ``IGNORE`` for each cell; an image without a 1 is left out.
    """
    errors = []
    for row, targets in zip(scores, labels, strict=True):
        valid = targets != IGNORE
        total = targets[valid].sum()
        if total > 0:
            target = targets[valid] / total
            errors.append((PERCENT * row[valid].astype(np.float64) - PERCENT * target) ** 2)
    return float(np.concatenate(errors).mean()) if errors else 0.0

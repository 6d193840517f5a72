"""Pseudo-labels: RoI targets made from the backbone's own attention."""

from __future__ import annotations

from sdrpn_core.labels.pseudo import (
    IGNORE,
    LabelOutcome,
    PseudoLabeler,
    PseudoLabels,
    ThresholdLabeler,
    pseudo_labels,
)
from sdrpn_core.labels.recipe import ALL_HEADS, LabelRecipe

__all__ = [
    "ALL_HEADS",
    "IGNORE",
    "LabelOutcome",
    "LabelRecipe",
    "PseudoLabeler",
    "PseudoLabels",
    "ThresholdLabeler",
    "pseudo_labels",
]

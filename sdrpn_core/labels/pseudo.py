"""From a grounding map and a sink map to RoI labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from sdrpn_core.errors import AttentionError, InputError
from sdrpn_core.grid.geometry import Box, enclosing_box
from sdrpn_core.labels.recipe import LabelRecipe

FOREGROUND = 1
BACKGROUND = 0
IGNORE = -100
"""Label of a cell that no loss sees; the value torch's losses ignore by default."""

DEFAULT_LABELER = "threshold"
"""Registered name of the published labeling."""

_SMOOTHING_SIGMA = 1.0
_SMOOTHING_RADIUS = 2


class LabelOutcome(str, Enum):
    """Whether a sample has labels, or why all of its cells are ignored."""

    OK = "ok"
    NO_FOREGROUND = "no_foreground"
    """Nothing is left of the grounding map once sinks are removed."""
    WEAK = "weak"
    """The maximum of the grounding map is below ``min_peak``."""
    BOX_TOO_LARGE = "box_too_large"
    """The foreground is spread over too much of the grid."""


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Labels of one image.

    Attributes:
        labels: (h, w) int64: 1 foreground, 0 background, -100 ignored.
        box: the foreground box in cells, half-open; None where there is no foreground.
        n_foreground, n_background, n_ignore: cells of each label; they sum to h * w.
        outcome: ``OK``, or why every cell is ignored.
    """

    labels: npt.NDArray[np.int64]
    box: Box | None
    n_foreground: int
    n_background: int
    n_ignore: int
    outcome: LabelOutcome


class PseudoLabeler(ABC):
    """Turns attention maps into labels, by a recipe."""

    def __init__(self, recipe: LabelRecipe) -> None:
        self.recipe = recipe

    @abstractmethod
    def __call__(
        self,
        grounding: npt.ArrayLike,
        sink: npt.ArrayLike | None = None,
        content: npt.ArrayLike | None = None,
    ) -> PseudoLabels:
        """Label one image.

        Args:
            grounding: (h, w) grounding map, any float dtype.
            sink: (h, w) sink map; None where the recipe reads no sink heads.
            content: (h, w) bool, false for cells wholly in the padding (``Geometry.content``); None
                where there is no padding.

        Raises:
            AttentionError: a NaN or infinite value.
            InputError: maps of different or not two-dimensional shapes.
        """


class ThresholdLabeler(PseudoLabeler):
    """The published labeling: remove sinks, threshold, box; see ``LabelRecipe`` for the numbers."""

    def __call__(
        self,
        grounding: npt.ArrayLike,
        sink: npt.ArrayLike | None = None,
        content: npt.ArrayLike | None = None,
    ) -> PseudoLabels:
        """Label one image; see ``PseudoLabeler.__call__``."""
        attention = _as_map(grounding, "grounding")
        shape = attention.shape
        is_sink = np.zeros(shape, dtype=np.bool_)
        if sink is not None:
            # Compared in the dtype the attention was averaged in: half precision rounds 1e-3.
            is_sink = _as_map(sink, "sink", shape) >= self.recipe.sink_threshold
        is_padding = np.zeros(shape, dtype=np.bool_)
        if content is not None and self.recipe.padding_is_sink:
            is_padding = ~_as_map(content, "content", shape).astype(np.bool_)
        return self._label(attention.astype(np.float64), is_sink, is_padding)

    def _label(
        self,
        attention: npt.NDArray[np.float64],
        is_sink: npt.NDArray[np.bool_],
        is_padding: npt.NDArray[np.bool_],
    ) -> PseudoLabels:
        recipe = self.recipe
        without_sinks = np.where(is_sink, 0.0, attention)
        clean = np.where(is_padding, 0.0, without_sinks)
        if recipe.smoothing:
            smooth = gaussian_filter(
                clean, _SMOOTHING_SIGMA, mode="mirror", radius=_SMOOTHING_RADIUS
            )
            floor = (recipe.foreground + recipe.background) / 2
            clean = np.where(smooth > smooth.max() * floor, clean, 0.0)
        peak = clean.max()
        is_foreground = clean > recipe.foreground * peak
        if not is_foreground.any():
            return _ignored(attention.shape, None, LabelOutcome.NO_FOREGROUND)

        box = enclosing_box(is_foreground)
        if recipe.box_blur:
            box = _widen(box, attention.shape)
        x0, y0, x1, y1 = box
        if not (x1 - x0) * (y1 - y0) < recipe.max_box_fraction * attention.size:
            return _ignored(attention.shape, box, LabelOutcome.BOX_TOO_LARGE)
        if peak < recipe.min_peak:
            return _ignored(attention.shape, box, LabelOutcome.WEAK)

        labels = np.full(attention.shape, IGNORE, dtype=np.int64)
        is_outside = np.ones(attention.shape, dtype=np.bool_)
        is_outside[y0:y1, x0:x1] = False
        labels[is_outside & (without_sinks < recipe.background * peak)] = BACKGROUND
        labels[is_padding] = BACKGROUND
        labels[is_foreground] = FOREGROUND
        return _counted(labels, box, LabelOutcome.OK)


def pseudo_labels(
    grounding: npt.ArrayLike,
    sink: npt.ArrayLike | None,
    recipe: LabelRecipe,
    content: npt.ArrayLike | None = None,
) -> PseudoLabels:
    """Label one image by the published method; see ``PseudoLabeler.__call__``."""
    return ThresholdLabeler(recipe)(grounding, sink, content)


def _as_map(
    values: npt.ArrayLike, name: str, shape: tuple[int, ...] | None = None
) -> npt.NDArray[np.floating]:
    array = np.asarray(values)
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{name} map must have shape (h, w), not {array.shape}")
    if shape is not None and array.shape != shape:
        raise InputError(f"{name} map has shape {array.shape}, the grounding map {shape}")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise AttentionError(f"{name} map: {bad} of {array.size} values are NaN or infinite")
    return array


def _widen(box: Box, shape: tuple[int, ...]) -> Box:
    """``box`` one cell larger on every side, within the grid."""
    x0, y0, x1, y1 = box
    return max(0, x0 - 1), max(0, y0 - 1), min(shape[1], x1 + 1), min(shape[0], y1 + 1)


def _ignored(shape: tuple[int, ...], box: Box | None, outcome: LabelOutcome) -> PseudoLabels:
    return _counted(np.full(shape, IGNORE, dtype=np.int64), box, outcome)


def _counted(labels: npt.NDArray[np.int64], box: Box | None, outcome: LabelOutcome) -> PseudoLabels:
    foreground = int((labels == FOREGROUND).sum())
    background = int((labels == BACKGROUND).sum())
    return PseudoLabels(
        labels, box, foreground, background, labels.size - foreground - background, outcome
    )

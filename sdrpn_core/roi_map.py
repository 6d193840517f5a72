"""The RoI map: one score per visual token, and the blur that precedes every threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.ndimage import correlate1d

from sdrpn_core.errors import AttentionError, ConfigError, InputError

ScoreKind = Literal["logit", "distribution"]
"""`logit`: independent scores, which the sigmoid makes probabilities. `distribution`: weights over
the grid (softmax scores, attention), thresholded as they are."""

_SIGMA = 1.0
"""Standard deviation of the 3x3 blur in cells, the published value for every model."""


@dataclass(frozen=True, eq=False)
class RoIMap:
    """Scores of the visual tokens of one picture.

    Attributes:
        scores: (h, w) float32, row 0 at the top.
        kind: what the scores are, see `ScoreKind`.

    Raises:
        InputError: `scores` is not a two-dimensional map with at least one cell.
        AttentionError: a score is NaN or infinite.
        ConfigError: unknown `kind`.
    """

    scores: npt.NDArray[np.float32]
    kind: ScoreKind = "logit"

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, dtype=np.float32)
        if scores.ndim != 2 or scores.size == 0:
            raise InputError(f"RoI map must have shape (h, w), not {scores.shape}")
        if not np.isfinite(scores).all():
            bad = int((~np.isfinite(scores)).sum())
            raise AttentionError(f"RoI map: {bad} of {scores.size} scores are NaN or infinite")
        if self.kind not in get_args(ScoreKind):
            known = ", ".join(get_args(ScoreKind))
            raise ConfigError(f"RoI map: unknown score kind {self.kind!r}; known kinds: {known}")
        object.__setattr__(self, "scores", scores)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.scores.shape
        return rows, columns

    def probabilities(self) -> npt.NDArray[np.float32]:
        """What an absolute threshold applies to: (h, w) float32.

        The sigmoid of logits; a distribution unchanged.
        """
        if self.kind == "distribution":
            return self.scores
        # exp of a non-positive number cannot overflow, whatever the sign of the score.
        small = np.exp(-np.abs(self.scores))
        return np.where(self.scores >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def gaussian_blur(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Blur a map with a 3x3 Gaussian (sigma 1 cell), mirrored at the border without the edge cell.

    Args:
        values: (h, w) floating-point map. A side of one cell mirrors onto itself.

    Returns:
        (h, w) in the dtype of `values`; a constant map stays constant up to rounding.
    """
    side = np.exp(-1.0 / (2 * _SIGMA**2))
    kernel = np.array([side, 1.0, side]) / (1 + 2 * side)
    blurred = np.asarray(values)
    for axis in (0, 1):
        blurred = correlate1d(blurred, kernel, axis=axis, mode="mirror")
    return blurred

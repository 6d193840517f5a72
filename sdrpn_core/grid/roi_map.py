"""The RoI map: one score per visual token, and the blur that precedes every threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from sdrpn_core.errors import AttentionError, ConfigError, InputError

ScoreKind = Literal["logit", "distribution"]
"""``logit``: independent scores, which the sigmoid turns into probabilities. ``distribution``:
weights over the grid (softmax scores, attention), thresholded unchanged."""

_BLUR_SIGMA, _BLUR_RADIUS = 1.0, 1
"""Standard deviation and reach of the blur in cells, the published values for every model."""


@dataclass(frozen=True, eq=False)
class RoIMap:
    """Scores of the visual tokens of one image.

    Attributes:
        scores: (h, w) float32, row 0 at the top.
        kind: kind of the scores, see ``ScoreKind``.
        question_scores: (h, w) float32, of the same kind: the highest score that any prompt token
            behind the last image gives each cell, where ``scores`` are those of the last token
            alone; ``None`` if not requested.

    Raises:
        InputError: ``scores`` is not a two-dimensional map with at least one cell, or
            ``question_scores`` is of another shape.
        AttentionError: a score is NaN or infinite.
        ConfigError: unknown ``kind``.
    """

    scores: npt.NDArray[np.float32]
    kind: ScoreKind = "logit"
    question_scores: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        scores = _finite(self.scores)
        if scores.ndim != 2 or scores.size == 0:
            raise InputError(f"RoI map must have shape (h, w), not {scores.shape}")
        if self.kind not in get_args(ScoreKind):
            known = ", ".join(get_args(ScoreKind))
            raise ConfigError(f"RoI map: unknown score kind {self.kind!r}; known kinds: {known}")
        object.__setattr__(self, "scores", scores)
        if self.question_scores is not None:
            question_scores = _finite(self.question_scores)
            if question_scores.shape != scores.shape:
                raise InputError(
                    f"RoI map: question scores of shape {question_scores.shape} for scores of "
                    f"{scores.shape}"
                )
            object.__setattr__(self, "question_scores", question_scores)

    def __repr__(self) -> str:
        rows, columns = self.grid
        return f"RoIMap({rows} x {columns}, {self.kind}, peak {self.scores.max():.3g})"

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.scores.shape
        return rows, columns

    def probabilities(self) -> npt.NDArray[np.float32]:
        """The values that an absolute threshold applies to, ``(h, w)`` float32.

        The sigmoid of logits; a distribution unchanged.
        """
        return self._as_probabilities(self.scores)

    def question_probabilities(self) -> npt.NDArray[np.float32]:
        """``probabilities`` of ``question_scores``.

        Raises:
            InputError: the map has none.
        """
        if self.question_scores is None:
            raise InputError("the RoI map holds no scores by the tokens of the question")
        return self._as_probabilities(self.question_scores)

    def _as_probabilities(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self.kind == "distribution":
            return scores
        probabilities: npt.NDArray[np.float32] = expit(scores)
        return probabilities


def _finite(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    scores = np.asarray(values, dtype=np.float32)
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).sum())
        raise AttentionError(f"RoI map: {bad} of {scores.size} scores are NaN or infinite")
    return scores


def gaussian_blur(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Blur a map with a 3x3 Gaussian (sigma 1 cell), mirrored at the border without the edge cell.

    Args:
        values: (h, w) floating-point map. A side of one cell mirrors onto itself.

    Returns:
        (h, w) in the dtype of ``values``; a constant map stays constant up to rounding.
    """
    blurred: npt.NDArray[np.floating] = gaussian_filter(
        values, _BLUR_SIGMA, mode="mirror", radius=_BLUR_RADIUS
    )
    return blurred

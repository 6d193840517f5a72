"""Pruning: which tokens of a large image are kept for the second pass."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.roi_map import RoIMap

PRUNE_RULES = ("cheaper", "published")


@dataclass(frozen=True)
class PruneRule:
    """Drop the tokens of a cropped image that no token of the question scores highly.

    Most of a large image is background to a question. Once a crop shows the region in detail, only
    those of the image's tokens are kept that at least one token of the question scores above a low
    threshold. The tokens of crops are never dropped, and without a crop nothing is.

    Attributes:
        prune_above: prune images with more visual tokens than this (published for dynamic
            resolution: 1024); ``None`` prunes none.
        prune_threshold: a token is kept if the highest probability that any token of the question
            gives it is strictly above this; the default is the published value.
        prune_rule: ``cheaper``: images are pruned only where that saves more token-layers than it
            costs, see :mod:`sdrpn_core.answering.pruning`. ``published``: always; the image then
            runs again, even if a handful of its tokens is dropped.

    Raises:
        ConfigError: a value is out of range.
    """

    _: KW_ONLY
    prune_above: int | None = None
    prune_threshold: float = 0.01
    prune_rule: str = PRUNE_RULES[0]

    def __post_init__(self) -> None:
        if self.prune_above is not None and self.prune_above < 0:
            raise ConfigError(
                f"crop policy: prune_above must be None or at least 0, not {self.prune_above}"
            )
        if not 0 < self.prune_threshold < 1:
            raise ConfigError(
                f"crop policy: prune_threshold must lie between 0 and 1, not {self.prune_threshold}"
            )
        if self.prune_rule not in PRUNE_RULES:
            raise ConfigError(
                f"crop policy: unknown prune_rule {self.prune_rule!r}; "
                f"known: {', '.join(PRUNE_RULES)}"
            )

    def needs_question_scores(self, grid: tuple[int, int]) -> bool:
        """Whether an image with this grid is pruned; see ``CropPolicy.needs_question_scores``."""
        rows, columns = grid
        return self.prune_above is not None and rows * columns > self.prune_above

    @property
    def prunes_at_any_cost(self) -> bool:
        """As published; see ``CropPolicy.prunes_at_any_cost``."""
        return self.prune_rule == "published"

    def kept_tokens(self, roi: RoIMap) -> npt.NDArray[np.bool_] | None:
        """The tokens to keep; ``None`` for all, or if the map has no scores by question."""
        if roi.question_scores is None or not self.needs_question_scores(roi.grid):
            return None
        return roi.question_probabilities() > self.prune_threshold

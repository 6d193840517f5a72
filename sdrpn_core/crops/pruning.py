"""Which tokens of the whole image stay for the second pass, where an image has very many."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.roi_map import RoIMap


@dataclass(frozen=True)
class PruneRule:
    """Drop the image's own tokens that no token of the question asks for.

    An image with many tokens is mostly background to a question. Once a crop shows the region in
    detail, only those of its tokens stay that at least one token of the question scores above a low
    threshold. The tokens of crops are never touched, and without a crop nothing is dropped.

    Attributes:
        prune_above: prune images with more visual tokens than this. Published for dynamic
            resolution: 1024. None (default): never.
        prune_threshold: a token stays if the highest probability that any token of the question
            gives it lies strictly above this; the published value.

    Raises:
        ConfigError: a value out of range.
    """

    _: KW_ONLY
    prune_above: int | None = None
    prune_threshold: float = 0.01

    def __post_init__(self) -> None:
        if self.prune_above is not None and self.prune_above < 0:
            raise ConfigError(
                f"crop policy: prune_above must be None or not negative, not {self.prune_above}"
            )
        if not 0 < self.prune_threshold < 1:
            raise ConfigError(
                f"crop policy: prune_threshold must lie between 0 and 1, not {self.prune_threshold}"
            )

    def needs_question_scores(self, grid: tuple[int, int]) -> bool:
        """Whether an image with this grid is pruned; see `CropPolicy.needs_question_scores`."""
        rows, columns = grid
        return self.prune_above is not None and rows * columns > self.prune_above

    def kept_tokens(self, roi: RoIMap) -> npt.NDArray[np.bool_] | None:
        """The tokens that stay; None where all do, or where the map has no scores by question."""
        if roi.question_scores is None or not self.needs_question_scores(roi.grid):
            return None
        return roi.question_probabilities() > self.prune_threshold

"""Regions that do not depend on any weights, for checks of the second pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.crops.policy import Crop, CropPlan, Outcome

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.grid.geometry import Box


class FixedRegion(Proposer):
    """Crops the same part of every image.

    Args:
        box: half-open (x0, y0, x1, y1) as shares of the image's width and height; at least one
            source pixel is cropped.
        max_tokens: crop budget, see :class:`~sdrpn_core.crops.budget.BudgetRule`.
    """

    def __init__(
        self,
        box: tuple[float, float, float, float] = (0.25, 0.25, 0.75, 0.75),
        *,
        max_tokens: int | None = None,
    ) -> None:
        self.box = box
        self.max_tokens = max_tokens

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """One crop per image, whatever the question."""
        return [
            [self._proposal(geometry.source_size, geometry.grid) for geometry in prompt.geometries]
            for prompt in state.prompts
        ]

    def _proposal(self, size: tuple[int, int], grid: tuple[int, int]) -> Proposal:
        width, height = size
        crop = Crop(
            self.box_in(width, height),
            self.box_in(grid[1], grid[0]),
            max_tokens=self.max_tokens,
        )
        return Proposal(CropPlan(Outcome.OK, (crop,)))

    def box_in(self, width: int, height: int) -> Box:
        """The box in an image, or a grid, of this size."""
        x0, y0, x1, y1 = self.box
        left, top = int(x0 * width), int(y0 * height)
        return left, top, max(int(x1 * width), left + 1), max(int(y1 * height), top + 1)

"""A proposer that pays for the RPN but crops what it is told: the crop's tokens are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sdrpn_core import RPN, Proposal
from sdrpn_core.answering.prefill import Prefill
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.crops.policy import CropPlan, Outcome
from sdrpn_core.testing.regions import FixedRegion


class FixedCrop(RPNProposer):
    """Runs the RPN on the question, and ignores its map.

    Args:
        rpn: any, of random weights as well.
        box: half-open (x0, y0, x1, y1) as shares of the image's width and height; ``None`` for
            no region, so that the answer is the plain one.
        half: keep only the half of the crop's tokens above its diagonal, as the crop policy
            ``mask`` does for a slanted region.
    """

    def __init__(
        self,
        rpn: RPN,
        box: tuple[float, float, float, float] | None = (0.25, 0.25, 0.75, 0.75),
        *,
        half: bool = False,
    ) -> None:
        super().__init__(rpn)
        self.region = None if box is None else FixedRegion(box)
        self.half = half

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """The box for every image, after the maps of all."""
        self.maps(state)
        if self.region is None:
            return self.nothing(state)
        proposals = self.region.propose(state)
        if not self.half:
            return proposals
        return [[_above_diagonal(proposal) for proposal in row] for row in proposals]

    def nothing(self, state: Prefill) -> list[list[Proposal]]:
        """No region in any image."""
        nothing = Proposal(CropPlan(Outcome.NO_ROI, reason="the benchmark asks for none"))
        return [[nothing for _ in prompt.images] for prompt in state.prompts]


def _above_diagonal(proposal: Proposal) -> Proposal:
    crops = []
    for crop in proposal.plan.crops:
        x0, y0, x1, y1 = crop.grid_box
        keep = np.tri(y1 - y0, x1 - x0, dtype=np.float32)[:, ::-1]
        crops.append(replace(crop, keep=keep))
    return replace(proposal, plan=replace(proposal.plan, crops=tuple(crops)))

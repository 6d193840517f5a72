"""A proposer that pays for the RPN but crops what it is told: the crop's tokens are known."""

from __future__ import annotations

from sdrpn_core import RPN, Proposal
from sdrpn_core.crops.policy import CropPlan, Outcome
from sdrpn_core.prefill import Prefill
from sdrpn_core.proposers import RPNProposer
from sdrpn_core.testing.regions import FixedRegion


class FixedCrop(RPNProposer):
    """Runs the RPN on the question, and ignores its map.

    Args:
        rpn: any, of random weights as well.
        box: half-open (x0, y0, x1, y1) as shares of the picture's width and height; ``None`` for
            no region, so that the answer is the plain one.
    """

    def __init__(
        self, rpn: RPN, box: tuple[float, float, float, float] | None = (0.25, 0.25, 0.75, 0.75)
    ) -> None:
        super().__init__(rpn)
        self.region = None if box is None else FixedRegion(box)

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """The box for every picture, after the maps of all."""
        self.maps(state)
        return self.nothing(state) if self.region is None else self.region.propose(state)

    def nothing(self, state: Prefill) -> list[list[Proposal]]:
        """No region in any picture."""
        nothing = Proposal(CropPlan(Outcome.NO_ROI, reason="the benchmark asks for none"))
        return [[nothing for _ in prompt.images] for prompt in state.prompts]

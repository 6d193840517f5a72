"""A third party's method: everything it has to write."""

from __future__ import annotations

from dataclasses import dataclass

from sdrpn_bench import Method
from sdrpn_core import Crop, CropPlan, Outcome
from sdrpn_core.answering.proposer import Proposal, Proposer


@dataclass(frozen=True)
class Center(Method):
    side: float = 0.25

    def proposer(self, context, records):
        return CenterProposer(self.side)


@dataclass
class CenterProposer(Proposer):
    side: float

    def propose(self, state):
        return [[self.crop(image.geometry) for image in prompt.images] for prompt in state.prompts]

    def crop(self, geometry):
        width, height = geometry.source_size
        x, y = int(width * (1 - self.side) / 2), int(height * (1 - self.side) / 2)
        box = (x, y, width - x, height - y)
        rows, columns = geometry.grid
        return Proposal(CropPlan(Outcome.OK, (Crop(box, (0, 0, columns, rows)),)))

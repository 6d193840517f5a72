"""Regions from a trained RPN, at the cost of a partial pass over the question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdrpn_core.answering.proposer import MapProposer
from sdrpn_core.answering.pruning import may_be_pruned

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.crops.policy import CropPolicy
    from sdrpn_core.grid.roi_map import RoIMap
    from sdrpn_core.rpn.model import RPN


class RPNProposer(MapProposer):
    """Crops the regions that an RPN predicts: the paper's method.

    Args:
        rpn: a trained RPN, attached to the backbone of the prefills it will see.
        policy: turns its maps into crops; default: the policy in its configuration.
    """

    def __init__(self, rpn: RPN, policy: CropPolicy | None = None) -> None:
        self.rpn = rpn.eval()
        self.reader = rpn
        self.policy = policy or rpn.config.crop_policy()

    @torch.no_grad()
    def maps(self, state: Prefill) -> list[RoIMap]:
        """The RoI maps of all images, prompt by prompt."""
        found: dict[int, list[RoIMap]] = {}
        for indices, part in state.parts():
            maps = iter(self._part_maps(part))
            for index, prompt in zip(indices, part.prompts, strict=True):
                found[index] = [next(maps) for _ in prompt.images]
        return [roi for index in sorted(found) for roi in found[index]]

    def _part_maps(self, state: Prefill) -> list[RoIMap]:
        places = state.places(wants_question=may_be_pruned(self.policy))
        if not places:
            return []
        readings = state.readings(self.rpn)
        features = state.question_features(self.rpn.branch)
        return self.rpn.score_after(readings, features, places).maps()

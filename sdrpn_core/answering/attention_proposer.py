"""Regions from the grounding heads' attention: no training, at the cost of a whole answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.crops.policy import CropPlan, CropPolicy, Outcome
from sdrpn_core.grid.roi_map import RoIMap
from sdrpn_core.taps.response_attention import Map, read_own_responses, recipe_heads, recipe_maps

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.labels.recipe import LabelRecipe


class AttentionProposer(Proposer):
    """Crops where the model's grounding heads look while it gives the plain answer.

    The sinks are dropped as in labeling. The map is attention, so the policy's threshold should be
    relative to its maximum.

    Args:
        recipe: which heads are read, and which are sinks.
        policy: turns the map into crops.
        max_new_tokens: upper limit of the plain answer's length.
    """

    def __init__(self, recipe: LabelRecipe, policy: CropPolicy, *, max_new_tokens: int) -> None:
        self.recipe = recipe
        self.policy = policy
        self.max_new_tokens = max_new_tokens

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """Crop what the plain answer attends to; ``no_roi`` if that answer is empty."""
        found: dict[int, list[Proposal]] = {}
        for indices, part in state.parts():
            found.update(zip(indices, self._propose(part), strict=True))
        return [found[index] for index in range(len(state.prompts))]

    def _propose(self, state: Prefill) -> list[list[Proposal]]:
        responses = read_own_responses(
            state.backbone,
            state.prompts,
            recipe_heads(self.recipe),
            max_new_tokens=self.max_new_tokens,
            max_rows=self.recipe.response_rows,
            prefix=state.prefix,
            cache=state.cache(),
        )
        proposals = []
        for prompt, response in zip(state.prompts, responses, strict=True):
            if response.n_rows == 0:
                plan = CropPlan(Outcome.NO_ROI, reason="the plain answer is empty")
                proposals.append([Proposal(plan) for _ in prompt.images])
                continue
            row = []
            for geometry, maps in zip(prompt.geometries, response.maps, strict=True):
                roi = self._roi(*recipe_maps(self.recipe, maps))
                row.append(Proposal(self.policy.plan(roi, geometry), roi))
            proposals.append(row)
        return proposals

    def _roi(self, grounding: Map, sink: Map) -> RoIMap:
        if self.recipe.sink:
            grounding = np.where(sink >= self.recipe.sink_threshold, np.float32(0), grounding)
        return RoIMap(grounding, "distribution")

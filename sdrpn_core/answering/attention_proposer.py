"""Regions from the grounding heads' attention: no training, at the cost of a whole answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdrpn_core.answering.proposer import MapProposer
from sdrpn_core.crops.policy import as_policy
from sdrpn_core.grid.roi_map import RoIMap
from sdrpn_core.taps.response_attention import Map, read_own_responses, recipe_heads, recipe_maps

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.crops.policy import CropPolicy
    from sdrpn_core.labels.recipe import LabelRecipe


class AttentionProposer(MapProposer):
    """Crops where the model's grounding heads look while it gives the plain answer.

    The sinks are dropped as in labeling. The map is attention, so the policy's threshold should be
    relative to its maximum.

    Args:
        recipe: which heads are read, and which are sinks.
        policy: turns the map into crops, or the name of one that does.
        max_new_tokens: upper limit of the plain answer's length.

    Raises:
        ConfigError: not a policy.
        UnknownNameError: no policy of that name.
    """

    no_map = "the plain answer is empty"

    def __init__(
        self, recipe: LabelRecipe, policy: str | CropPolicy, *, max_new_tokens: int
    ) -> None:
        self.recipe = recipe
        self.policy = as_policy(policy)
        self.max_new_tokens = max_new_tokens

    def maps(self, state: Prefill) -> list[RoIMap | None]:
        """The maps of all images, prompt by prompt; ``None`` where the plain answer is empty."""
        found: dict[int, list[RoIMap | None]] = {}
        for indices, part in state.parts_to_answer():
            found.update(zip(indices, self._part_maps(part), strict=True))
        return [roi for index in range(len(state.prompts)) for roi in found[index]]

    def _part_maps(self, state: Prefill) -> list[list[RoIMap | None]]:
        responses = read_own_responses(
            state.backbone,
            state.prompts,
            recipe_heads(self.recipe),
            max_new_tokens=self.max_new_tokens,
            max_rows=self.recipe.response_rows,
            prefix=state.prefix,
            cache=state.cache(),
        )
        return [
            [self._roi(*recipe_maps(self.recipe, maps)) for maps in response.maps]
            if response.n_rows
            else [None for _ in prompt.images]
            for prompt, response in zip(state.prompts, responses, strict=True)
        ]

    def _roi(self, grounding: Map, sink: Map) -> RoIMap:
        if self.recipe.sink:
            grounding = np.where(sink >= self.recipe.sink_threshold, np.float32(0), grounding)
        return RoIMap(grounding, "distribution")

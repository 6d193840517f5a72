"""Regions from a trained RPN, at the cost of a partial pass over the question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch

from sdrpn_core.answering.proposer import FoundMap, MapProposer, Proposal
from sdrpn_core.answering.pruning import may_be_pruned
from sdrpn_core.crops.policy import CropPlan, Outcome
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.model import check_rpn

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.crops.policy import CropPolicy
    from sdrpn_core.grid.geometry import Geometry
    from sdrpn_core.grid.roi_map import RoIMap
    from sdrpn_core.rpn.model import RPN


_NOT_NEEDED = CropPlan(
    Outcome.NOT_NEEDED, reason="the question needs no closer look, says the gate"
)

_Reading: TypeAlias = "tuple[float | None, list[RoIMap | None]]"
"""Of one question the gate's probability, and the maps of its images."""


class RPNProposer(MapProposer):
    """Crops the regions that an RPN predicts: the paper's method.

    Where the RPN has a gate, each question is put to it first. A question that needs no region
    costs the gate's layers and nothing else: neither the trunk nor the policy runs for it, whatever
    the others of its batch need, and the plain answer goes on.

    Args:
        rpn: a trained RPN, attached to the backbone of the prefills it will see.
        policy: turns its maps into crops, or the name of one that does; default: the policy in its
            configuration.
        gate_threshold: probability from which on the region is looked for; 0 does not ask the gate;
            default: the gate's own.
        always_asks: whether the gate is asked for its probability even where a threshold of 0
            leaves it nothing to decide.

    Raises:
        UnknownNameError: no policy of that name.
        ConfigError: not an RPN or a policy; a threshold that is no probability; or the RPN has
            no gate, and a threshold above 0 is given, or it is always to be asked.
    """

    def __init__(
        self,
        rpn: RPN,
        policy: str | CropPolicy | None = None,
        *,
        gate_threshold: float | None = None,
        always_asks: bool = False,
    ) -> None:
        check_rpn(rpn)
        self.rpn = rpn.eval()
        self.reader = rpn
        self.policy = rpn.config.crop_policy(policy)
        self.gate_threshold = rpn.config.gate_threshold(gate_threshold)
        self.asks_gate = always_asks or self.gate_threshold > 0
        if self.asks_gate and rpn.gate is None:
            raise ConfigError("the gate is to be asked, but this RPN has no gate")

    def maps(self, state: Prefill) -> list[RoIMap | None]:
        """The RoI maps of all images, prompt by prompt; ``None`` where the gate is closed."""
        return [found.roi for found in self.find(state)]

    def find(self, state: Prefill) -> list[FoundMap]:
        """Ask the gate, and score the images of the questions that it lets through."""
        return [FoundMap(roi, need) for need, row in self._read(state) for roi in row]

    def proposal(self, roi: RoIMap | None, geometry: Geometry) -> Proposal:
        """What to crop from an image with this map."""
        return Proposal(_NOT_NEEDED) if roi is None else super().proposal(roi, geometry)

    @torch.no_grad()
    def _read(self, state: Prefill) -> list[_Reading]:
        found: dict[int, _Reading] = {}
        for indices, part in state.parts():
            found.update(zip(indices, self._read_part(part), strict=True))
        return [found[index] for index in sorted(found)]

    def _read_part(self, state: Prefill) -> list[_Reading]:
        places = state.places(wants_question=may_be_pruned(self.policy))
        if not places:
            return [(None, []) for _ in state.prompts]
        readings = state.readings(self.rpn)
        features = state.question_features(self.rpn.branch)
        needs: Sequence[float | None] = [None] * len(state.prompts)
        if self.asks_gate:
            needs = self.rpn.gate_after(readings, features, places)
        is_open = [need is None or need >= self.gate_threshold for need in needs]
        seen = [place for place in places if is_open[place.row]]
        maps: Iterator[RoIMap] = iter(())
        if seen:
            rows = list(dict.fromkeys(place.row for place in seen))
            maps = iter(self.rpn.score_after(readings, features, seen, rows).maps())
        return [
            (need, [next(maps) if opened else None for _ in prompt.images])
            for prompt, need, opened in zip(state.prompts, needs, is_open, strict=True)
        ]

"""Regions from a trained RPN, at the cost of a partial pass over the question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.crops.policy import CropPlan, Outcome
from sdrpn_core.errors import ConfigError
from sdrpn_core.gate.config import check_threshold

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.crops.policy import CropPolicy
    from sdrpn_core.grid.roi_map import RoIMap
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.rpn.trunk_states import PrefixReading
    from sdrpn_core.taps.feature_tap import Features


_NOT_NEEDED = CropPlan(
    Outcome.NOT_NEEDED, reason="the question needs no closer look, says the gate"
)


class RPNProposer(Proposer):
    """Crops the regions that an RPN predicts: the paper's method.

    Where the RPN has a gate, each question is put to it first. A question that needs no region
    costs the gate's layers and nothing else: neither the trunk nor the policy runs for a batch of
    such questions, and the plain answer goes on.

    Args:
        rpn: a trained RPN, attached to the backbone of the prefills it will see.
        policy: turns its maps into crops; default: the policy in its configuration.
        gate_threshold: probability from which on the region is looked for; 0 does not ask the gate;
            default: the gate's own.

    Raises:
        ConfigError: a threshold that is no probability, or one above 0 for an RPN without a gate.
    """

    def __init__(
        self, rpn: RPN, policy: CropPolicy | None = None, *, gate_threshold: float | None = None
    ) -> None:
        self.rpn = rpn.eval()
        self.reader = rpn
        self.policy = policy or rpn.config.crop_policy()
        own = 0.0 if rpn.config.gate is None else rpn.config.gate.threshold
        self.gate_threshold = own if gate_threshold is None else gate_threshold
        check_threshold(self.gate_threshold)
        if self.gate_threshold and rpn.gate is None:
            raise ConfigError("a threshold of the gate is given, but this RPN has no gate")

    @torch.no_grad()
    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """Ask the gate, score the images in one pass, and plan the crops of each."""
        found: dict[int, list[Proposal]] = {}
        for indices, part in state.parts():
            found.update(zip(indices, self._propose(part), strict=True))
        return [found[index] for index in sorted(found)]

    def _propose(self, state: Prefill) -> list[list[Proposal]]:
        readings = state.readings(self.rpn)
        features = state.question_features(self.rpn.branch)
        needs: list[float | None] = [None] * len(state.prompts)
        if self.gate_threshold:
            needs = [*self.rpn.gate_after(readings, features)]
        closed = [need is not None and need < self.gate_threshold for need in needs]
        if all(closed):
            maps: Iterator[RoIMap] = iter(())
        else:
            maps = iter(self._maps(state, readings, features))
        proposals = []
        for prompt, need, is_closed in zip(state.prompts, needs, closed, strict=True):
            row = []
            for geometry in prompt.geometries:
                # Maps are made for a whole batch, those of closed questions are not used.
                roi = next(maps, None)
                if is_closed or roi is None:
                    row.append(Proposal(_NOT_NEEDED, gate=need))
                else:
                    row.append(Proposal(self.policy.plan(roi, geometry), roi, gate=need))
            proposals.append(row)
        return proposals

    @torch.no_grad()
    def maps(self, state: Prefill) -> list[RoIMap]:
        """The RoI maps of all images, prompt by prompt, whatever a gate would say."""
        found: dict[int, list[RoIMap]] = {}
        for indices, part in state.parts():
            readings = part.readings(self.rpn)
            features = part.question_features(self.rpn.branch)
            maps = iter(self._maps(part, readings, features))
            for index, prompt in zip(indices, part.prompts, strict=True):
                found[index] = [next(maps) for _ in prompt.images]
        return [roi for index in sorted(found) for roi in found[index]]

    def _maps(
        self, state: Prefill, readings: Sequence[PrefixReading], features: Features | None
    ) -> list[RoIMap]:
        places = state.places(wants_question=self.policy.needs_question_scores)
        return self.rpn.score_after(readings, features, places).maps() if places else []

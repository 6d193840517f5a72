"""Where candidate regions come from: the RPN's policy, draws from its map, the record's boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.crops.bbox import is_empty, source_boxes
from sdrpn_core.crops.candidates import RegionSampler
from sdrpn_core.crops.policy import Crop, CropPlan, Outcome
from sdrpn_core.data.boxes import KNOWN_BOX_MARGIN, with_margin

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.answering.rpn_proposer import RPNProposer
    from sdrpn_core.crops.policy import CropPolicy
    from sdrpn_core.data.record import Record
    from sdrpn_core.grid.geometry import Geometry

__all__ = ["CandidateSource", "Found", "GivenCandidates", "RPNCandidates", "policy_facts"]

RPN_REGION = "rpn"
SAMPLED = "sampled"
GIVEN = "given"

Found: TypeAlias = "list[tuple[str, Proposal]]"
"""The candidates of one record: the name of each one's source, and its crops of the only image."""


class CandidateSource(Protocol):
    """Proposes regions to be judged."""

    def propose(self, state: Prefill, records: Sequence[Record]) -> list[Found]:
        """The candidates of each record.

        Args:
            state: the records' questions, each about one image, whose prefixes have run.
            records: as many.

        Raises:
            InputError: a record is at fault.
        """

    def facts(self) -> dict[str, Any]:
        """What decides the candidates, as plain JSON values for the manifest."""


@dataclass(frozen=True)
class GivenCandidates:
    """The boxes of the record, cropped together, if it has any.

    Attributes:
        margin: on every side of a box, relative to its longer side.
        max_crop_tokens: crop budget, see :class:`~sdrpn_core.crops.budget.BudgetRule`.
    """

    margin: float = KNOWN_BOX_MARGIN
    max_crop_tokens: int | None = None

    def propose(self, state: Prefill, records: Sequence[Record]) -> list[Found]:
        """See :class:`CandidateSource`."""
        found: list[Found] = []
        for prompt, record in zip(state.prompts, records, strict=True):
            (geometry,) = prompt.geometries
            size = geometry.source_size
            boxes = [with_margin(box, self.margin, size) for box in record.boxes or ()]
            crops = tuple(
                Crop(box, geometry.covering_cells(box), max_tokens=self.max_crop_tokens)
                for box in boxes
            )
            found.append([(GIVEN, Proposal(CropPlan(Outcome.OK, crops)))] if crops else [])
        return found

    def facts(self) -> dict[str, Any]:
        """See :class:`CandidateSource`."""
        return {GIVEN: asdict(self)}


class RPNCandidates:
    """The region that the RPN's policy crops, and regions drawn from its map.

    Args:
        proposer: what an answer with the RPN crops.
        sampler: draws regions; ``None`` for the policy's alone.
    """

    def __init__(self, proposer: RPNProposer, sampler: RegionSampler | None = None) -> None:
        self._proposer = proposer
        self.sampler = sampler

    def propose(self, state: Prefill, records: Sequence[Record]) -> list[Found]:
        """See :class:`CandidateSource`."""
        found: list[Found] = []
        rows = self._proposer.propose(state)
        for prompt, record, (own,) in zip(state.prompts, records, rows, strict=True):
            (geometry,) = prompt.geometries
            drawn = self._drawn(own, geometry, record.id)
            found.append([(RPN_REGION, own), *((SAMPLED, one) for one in drawn)])
        return found

    def facts(self) -> dict[str, Any]:
        """See :class:`CandidateSource`."""
        facts: dict[str, Any] = {RPN_REGION: policy_facts(self._proposer.policy)}
        if self.sampler is not None:
            facts[SAMPLED] = asdict(self.sampler)
        return facts

    def _drawn(self, own: Proposal, geometry: Geometry, key: str) -> list[Proposal]:
        if self.sampler is None or own.roi is None:
            return []
        regions = self.sampler(own.roi.probabilities(), geometry.content(), key)
        policy = self._proposer.policy
        # A region is judged as it will be cropped once the map shows it.
        margin = float(policy.options().get("margin", 0.0))
        seen = {tuple(sorted(crop.grid_box for crop in own.plan.crops))}
        proposals = []
        for region in regions:
            boxes = source_boxes(region, geometry, margin)
            # The policy's own region is judged already.
            if region in seen or any(map(is_empty, boxes)):
                continue
            crops = tuple(
                Crop(box, grid_box, max_tokens=policy.crop_budget)
                for grid_box, box in zip(region, boxes, strict=True)
            )
            proposals.append(replace(own, plan=CropPlan(Outcome.OK, crops)))
        return proposals


def policy_facts(policy: CropPolicy) -> dict[str, Any]:
    """What decides which regions of a map are cropped, as plain values.

    Args:
        policy: the one that crops.
    """
    return {"policy": type(policy).__name__, "options": policy.options()}

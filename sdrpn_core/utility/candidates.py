"""Where candidate regions come from: the RPN's policy, draws from its map, the record's boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.crops.bbox import is_empty, source_boxes
from sdrpn_core.crops.candidates import RegionSampler
from sdrpn_core.crops.policy import Crop, CropPlan, CropPolicy, Outcome
from sdrpn_core.utility.defaults import DEFAULT_MARGIN

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.answering.prefix import PrefixReader
    from sdrpn_core.data.record import Record
    from sdrpn_core.grid.geometry import Box, Geometry
    from sdrpn_core.rpn.model import RPN

__all__ = ["CandidateSource", "Found", "GivenCandidates", "RPNCandidates"]

RPN_REGION = "rpn"
SAMPLED = "sampled"
GIVEN = "given"

Found: TypeAlias = "list[tuple[str, Proposal]]"
"""The candidates of one record: the name of each one's source, and its crops of the only image."""


class CandidateSource(Protocol):
    """Proposes regions to be judged."""

    @property
    def reader(self) -> PrefixReader | None:
        """Reads the branch features of the prefixes; ``None`` if nothing does."""

    def propose(self, state: Prefill, records: Sequence[Record]) -> list[Found]:
        """The candidates of each record.

        Args:
            state: the records' questions, each about one image, whose prefixes have run.
            records: as many.
        """

    def facts(self) -> dict[str, Any]:
        """What decides the candidates, as plain JSON values for the manifest."""


@dataclass(frozen=True)
class GivenCandidates:
    """The boxes of the record, cropped together, if it has any.

    Attributes:
        margin: on every side of a box, relative to its longer side.
    """

    margin: float = DEFAULT_MARGIN
    reader: PrefixReader | None = None

    def propose(self, state: Prefill, records: Sequence[Record]) -> list[Found]:
        """See :class:`CandidateSource`."""
        found: list[Found] = []
        for prompt, record in zip(state.prompts, records, strict=True):
            (geometry,) = prompt.geometries
            boxes = [self._grown(box, geometry) for box in record.boxes or ()]
            crops = tuple(Crop(box, geometry.covering_cells(box)) for box in boxes)
            found.append([(GIVEN, Proposal(CropPlan(Outcome.OK, crops)))] if crops else [])
        return found

    def facts(self) -> dict[str, Any]:
        """See :class:`CandidateSource`."""
        return {GIVEN: {"margin": self.margin}}

    def _grown(self, box: Box, geometry: Geometry) -> Box:
        x0, y0, x1, y1 = box
        width, height = geometry.source_size
        extra = round(self.margin * max(x1 - x0, y1 - y0))
        return (
            max(0, x0 - extra),
            max(0, y0 - extra),
            min(width, x1 + extra),
            min(height, y1 + extra),
        )


class RPNCandidates:
    """The region that the RPN's policy crops, and regions drawn from its map.

    A gate is not asked: what is judged is the region.

    Args:
        rpn: a trained RPN, attached to the backbone.
        sampler: draws regions; ``None`` for the policy's alone.
        policy: default: that of the RPN's configuration.
    """

    def __init__(
        self, rpn: RPN, sampler: RegionSampler | None = None, policy: CropPolicy | None = None
    ) -> None:
        self.rpn = rpn
        self.sampler = sampler
        self._proposer = RPNProposer(rpn, policy, gate_threshold=0.0)
        self.reader: PrefixReader | None = rpn

    def propose(self, state: Prefill, records: Sequence[Record]) -> list[Found]:
        """See :class:`CandidateSource`."""
        found: list[Found] = []
        rows = self._proposer.propose(state)
        for prompt, record, (own,) in zip(state.prompts, records, rows, strict=True):
            (geometry,) = prompt.geometries
            drawn = [] if own.roi is None else self._drawn(own, geometry, record.id)
            found.append([(RPN_REGION, own), *((SAMPLED, one) for one in drawn)])
        return found

    def facts(self) -> dict[str, Any]:
        """See :class:`CandidateSource`."""
        policy = self._proposer.policy
        facts: dict[str, Any] = {
            RPN_REGION: {"policy": type(policy).__name__, "options": policy.options()}
        }
        if self.sampler is not None:
            facts[SAMPLED] = {**vars(self.sampler)}
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

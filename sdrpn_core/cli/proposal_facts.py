"""A proposal as JSON values, the same in every command that prints one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdrpn_core.answering.proposer import Proposal

__all__ = ["proposal_facts"]


def proposal_facts(proposal: Proposal) -> dict[str, Any]:
    """Outcome, reason, crops in source pixels and cells, and what gate and map were like.

    ``kept_tokens`` counts those of the whole image that stay, where others are pruned.
    """
    plan, roi = proposal.plan, proposal.roi
    facts: dict[str, Any] = {
        "outcome": plan.outcome.value,
        "reason": plan.reason,
        "crops": [{"box": crop.box, "grid_box": crop.grid_box} for crop in plan.crops],
    }
    if plan.keep is not None:
        facts["kept_tokens"] = int(plan.keep.sum())
    if proposal.gate is not None:
        facts["gate"] = proposal.gate
    if roi is not None:
        facts |= {"grid": roi.grid, "kind": roi.kind, "peak": float(roi.probabilities().max())}
    return facts

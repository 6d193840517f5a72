"""What a proposer proposes, in the shape that the second pass relies on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.crops.policy import checked_plan
from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.answering.proposer import Proposer


def proposals_of(
    proposer: Proposer, state: Prefill, store: PrefixStore | None = None
) -> list[list[Proposal]]:
    """Ask a proposer, and check its answer, whoever wrote it.

    Args:
        proposer: where crops come from.
        state: questions whose prefixes have run.
        store: where the prefixes are kept, which take more memory once the proposer has read them.

    Returns:
        Per question one proposal per image.

    Raises:
        ConfigError: proposals are missing or too many, or a plan cannot be cropped, see
            :func:`~sdrpn_core.crops.policy.checked_plan`.
    """
    by = type(proposer).__name__
    rows = proposer.propose(state)
    if store is not None:
        store.shrink()
    geometries = [prompt.geometries for prompt in state.prompts]
    if not _has_shape(rows, [len(row) for row in geometries]):
        raise ConfigError(f"{by} must propose a list per question, with one Proposal per image")
    return [
        [
            replace(proposal, plan=checked_plan(proposal.plan, geometry, by))
            for proposal, geometry in zip(*pair, strict=True)
        ]
        for pair in zip(rows, geometries, strict=True)
    ]


def _has_shape(rows: object, counts: Sequence[int]) -> bool:
    if not isinstance(rows, (list, tuple)) or len(rows) != len(counts):
        return False
    return all(
        isinstance(row, (list, tuple))
        and len(row) == count
        and all(isinstance(one, Proposal) for one in row)
        for row, count in zip(rows, counts, strict=True)
    )

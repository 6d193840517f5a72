"""Which images are pruned: where dropping tokens saves more token-layers than it costs.

The prefix has run through all layers when the crops are known. A pruned image runs again, because
its tokens attended to those that are dropped, and so does all that follows it; an image that is not
pruned stays in the cache, unless a crop comes before it. So in the token-layers of
:mod:`~sdrpn_core.answering.token_layers`, pruning pays for images behind a crop of another one, and
never for the first image that is cropped, however few of its tokens are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sdrpn_core.answering.token_layers import AnswerShape

if TYPE_CHECKING:
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.crops.policy import CropPlan, CropPolicy
    from sdrpn_core.runtime.block import WantsQuestion


def without_costly_pruning(
    prompt: Prompt, plans: Sequence[CropPlan], n_layers: int
) -> list[CropPlan]:
    """The plans of a prompt's images; those whose pruning costs more than it saves keep all tokens.

    Plans that prune at any cost stay as they are.

    Args:
        prompt: without crops, nothing pruned.
        plans: one per image.
        n_layers: L.
    """
    chosen = [plan if plan.prunes_at_any_cost else replace(plan, keep=None) for plan in plans]
    for index, plan in enumerate(plans):
        tried = [*chosen[:index], plan, *chosen[index + 1 :]]
        before, after = (_shape(prompt, some).second_pass(n_layers) for some in (chosen, tried))
        if after < before:
            chosen = tried
    return chosen


def may_be_pruned(policy: CropPolicy) -> WantsQuestion:
    """Which images a policy may prune, so that the scores by question are wanted for them."""

    def wants_question(number: int, grid: tuple[int, int]) -> bool:
        # Before the first image of a prompt, there is nothing that could make it run again.
        pays = policy.prunes_at_any_cost or number > 0
        return pays and policy.needs_question_scores(grid)

    return wants_question


def n_unchanged(prompt: Prompt, plans: Sequence[CropPlan]) -> int:
    """How many of a prompt's first tokens neither a crop nor pruning changes.

    Tokens behind a crop attend to it, and those of a pruned image to the tokens that are dropped.
    """
    for (start, stop), plan in zip(prompt.image_spans, plans, strict=True):
        if plan.keep is not None:
            return start
        if plan.crops:
            return stop
    return len(prompt)


def _shape(prompt: Prompt, plans: Sequence[CropPlan]) -> AnswerShape:
    """The lengths of an answer but for crops and response, which pruning does not change."""
    prefix = prompt.prefix_length
    dropped = sum(int((~plan.keep).sum()) for plan in plans if plan.keep is not None)
    rerun = max(prefix - n_unchanged(prompt, plans), 0) - dropped
    return AnswerShape(prefix, len(prompt) - prefix, rerun=rerun)

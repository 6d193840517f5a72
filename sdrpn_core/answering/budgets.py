"""Budgets of visual tokens: refused at once where a family's resolution is fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdrpn_core.answering.proposer import MapProposer
from sdrpn_core.crops.budget import check_budget

if TYPE_CHECKING:
    from sdrpn_core.answering.proposer import Proposer
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.crops.policy import CropPolicy


def check_budgets(
    backbone: Backbone, policy: CropPolicy | None, first_look_tokens: int | None
) -> None:
    """Refuse budgets that cannot be kept, before anything runs.

    Args:
        backbone: the model.
        policy: it may have a crop budget; ``None`` where there is no policy.
        first_look_tokens: of whole images; ``None`` if not limited.

    Raises:
        ConfigError: a budget is below 1, or the family's resolution is fixed.
    """
    check_budget(first_look_tokens, "first_look_tokens")
    backbone.check_dynamic_resolution("first_look_tokens", first_look_tokens)
    if policy is not None:
        backbone.check_dynamic_resolution("max_crop_tokens", policy.crop_budget)


def policy_of(proposer: Proposer | None) -> CropPolicy | None:
    """The policy of a proposer that has one."""
    return proposer.policy if isinstance(proposer, MapProposer) else None

"""The plain answer, the trained RPN, and the training-free way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sdrpn_bench.method import Method, MethodContext
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.errors import ConfigError
from sdrpn_core.proposers import AttentionProposer, Proposer, RPNProposer, make_policy

if TYPE_CHECKING:
    from sdrpn_core.records import Record


@dataclass(frozen=True)
class Baseline(Method):
    """Stock generation on the whole picture."""

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer | None:
        """No proposer."""
        return None


@dataclass(frozen=True)
class TrainedRPN(Method):
    """The two-stage answer with a trained RPN.

    Attributes:
        threshold: overrides that of the RPN's crop policy.
    """

    needs_rpn: ClassVar[bool] = True

    threshold: float | None = None

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer:
        """Proposals of the RPN, with the crop policy its configuration names."""
        if context.rpn is None:
            raise ConfigError("method 'sdrpn' needs an RPN")
        config = context.rpn.config
        options = dict(config.policy_options)
        if self.threshold is not None:
            options["threshold"] = self.threshold
        return RPNProposer(context.rpn, make_policy(config.policy, options))


@dataclass(frozen=True)
class RawAttention(Method):
    """Crops where the grounding heads look while the plain answer is generated.

    Attributes:
        threshold: share of the map's maximum above which cells are cropped; default: the one that
            the label recipe calls foreground, so that labels and crops mark the same cells.
        max_crops: with more regions than this nothing is cropped.
    """

    threshold: float | None = None
    max_crops: int = BboxPolicy.max_crops

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer:
        """Proposals by attention, with a threshold relative to the map's maximum."""
        recipe = context.recipe
        threshold = recipe.foreground if self.threshold is None else self.threshold
        policy = BboxPolicy(threshold=threshold, relative=True, max_crops=self.max_crops)
        return AttentionProposer(recipe, policy, max_new_tokens=context.max_new_tokens)

"""The plain answer, the trained RPN, and the training-free alternative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from sdrpn_bench.budgeted import BudgetedMethod
from sdrpn_bench.method import Method, MethodContext
from sdrpn_core.answering.attention_proposer import AttentionProposer
from sdrpn_core.answering.proposer import Proposer
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.crops.policy import make_policy
from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record


@dataclass(frozen=True)
class Baseline(Method):
    """Stock generation on the whole image."""


@dataclass(frozen=True)
class TrainedRPN(BudgetedMethod):
    """The two-stage answer with a trained RPN.

    Attributes:
        threshold: overrides the threshold of the RPN's crop policy, and the one that was published
            for the model and the dataset.
        gate_threshold: probability from which on an RPN with a gate looks for a region; 0: always.
            Default: the gate's own.
        always_ask_gate: whether the gate is asked for its probability even where its threshold is
            0; that costs what the gate costs.
        policy: another crop policy than the RPN's, which starts from its own defaults.
        policy_options: options of the policy to replace.
    """

    needs_rpn: ClassVar[bool] = True

    threshold: float | None = None
    gate_threshold: float | None = None
    always_ask_gate: bool = False
    policy: str | None = None
    policy_options: Mapping[str, Any] | None = None

    def tuned(self, threshold: float, context: MethodContext) -> TrainedRPN:
        """The published threshold, unless one was chosen or the policy's are of another kind."""
        options = {**context.policy[1], **(self.policy_options or {})}
        chosen = self.policy is not None or "threshold" in (self.policy_options or {})
        if self.threshold is not None or chosen or options.get("relative", False):
            return self
        return replace(self, threshold=threshold)

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer:
        """Propose by the RPN, with the crop policy of its configuration or a variation of it.

        Raises:
            ConfigError: the model has no RPN, a threshold is given for a gate that it lacks, or
                the policy does not have an option.
        """
        if context.rpn is None:
            raise ConfigError("method 'sdrpn' needs an RPN")
        own = {"threshold": self.threshold, "max_crop_tokens": self.max_crop_tokens}
        given = {key: value for key, value in own.items() if value is not None}
        options = {**(self.policy_options or {}), **given}
        policy = context.rpn.config.crop_policy(self.policy, options)
        return RPNProposer(
            context.rpn,
            policy,
            gate_threshold=self.gate_threshold,
            always_asks=self.always_ask_gate,
        )


@dataclass(frozen=True)
class RawAttention(BudgetedMethod):
    """Crops the regions that the grounding heads attend to while the plain answer is generated.

    The crop policy is the RPN's (without an RPN, the preset's), with two differences. Attention is
    not a probability, so the threshold is relative to its maximum. And a policy that would crop the
    whole image (``whole_grid``) crops what lies above the threshold instead: otherwise it would not
    matter where the model looks.

    Attributes:
        threshold: the relative threshold. Default: the policy's own if it is relative, else the
            foreground threshold of the label recipe, so that labels and crops mark the same cells.
        max_crops: overrides the policy's maximum number of crops.
    """

    threshold: float | None = None
    max_crops: int | None = None

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer:
        """Propose by attention, with a threshold relative to the map's maximum."""
        recipe = context.recipe
        name, options = context.policy
        if self.threshold is not None:
            options["threshold"] = self.threshold
        elif not options.get("relative", False):
            options["threshold"] = recipe.foreground
        if self.max_crops is not None:
            options["max_crops"] = self.max_crops
        if self.max_crop_tokens is not None:
            options["max_crop_tokens"] = self.max_crop_tokens
        options.pop("whole_grid", None)
        policy = make_policy(name, {**options, "relative": True})
        return AttentionProposer(recipe, policy, max_new_tokens=context.max_new_tokens)

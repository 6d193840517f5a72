"""The plain answer, the trained RPN, and the training-free alternative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from sdrpn_bench.budgeted import BudgetedMethod, fixed_resolution, looking
from sdrpn_bench.method import Method, MethodContext
from sdrpn_core.answering.attention_proposer import AttentionProposer
from sdrpn_core.answering.proposer import Proposer
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.recipe_option import GivenRecipe
from sdrpn_core.crops.budget import check_budget
from sdrpn_core.crops.policy import make_policy
from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.backbone.question import Question
    from sdrpn_core.data.record import Record
    from sdrpn_core.labels.recipe import LabelRecipe


@dataclass(frozen=True)
class Baseline(Method):
    """Stock generation on the whole image.

    Attributes:
        first_look_tokens: largest number of visual tokens of each image; default: the processor's.

    Raises:
        ConfigError: the budget is below 1.
    """

    _: KW_ONLY
    first_look_tokens: int | None = None

    def __post_init__(self) -> None:
        check_budget(self.first_look_tokens, "first_look_tokens")

    def unserved(self, context: MethodContext) -> str | None:
        """Refuse a budget in families of fixed resolution."""
        return None if self.first_look_tokens is None else fixed_resolution(context.backbone)

    def questions(
        self, records: Sequence[Record], images: Sequence[tuple[Image.Image, ...]]
    ) -> list[Question]:
        """The questions of the records, with the first look."""
        return looking(super().questions(records, images), self.first_look_tokens)


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

    def unserved(self, context: MethodContext) -> str | None:
        """Refuse to ask a gate that the RPN lacks, and budgets in families of fixed resolution."""
        asks_gate = self.always_ask_gate or bool(self.gate_threshold)
        if asks_gate and context.rpn is not None and context.rpn.gate is None:
            return "the gate is to be asked, but this RPN has no gate"
        return super().unserved(context)

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

    The crop policy is the RPN's (without an RPN, the preset's; without that, ``bbox``), with two
    differences. Attention is not a probability, so the threshold is relative to its maximum. And a
    policy that would crop the whole image (``whole_grid``) crops what lies above the threshold
    instead: otherwise it would not matter where the model looks.

    Attributes:
        threshold: the relative threshold. Default: the policy's own if it is relative, else the
            foreground threshold of the label recipe, so that labels and crops mark the same cells.
        max_crops: overrides the policy's maximum number of crops.
        recipe: the label recipe that names the grounding heads: one of the preset, by its name, or
            a JSON file, which is read at once. Default: that of the RPN, else the preset's first.

    Raises:
        ConfigError: the file cannot be read, or is no recipe.
    """

    threshold: float | None = None
    max_crops: int | None = None
    recipe: str | GivenRecipe | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.recipe, str):
            object.__setattr__(self, "recipe", GivenRecipe.read(self.recipe))

    def options(self) -> dict[str, Any]:
        """The options as plain JSON values; of a recipe file what it says, not where it lies."""
        given = self.recipe.to_value() if isinstance(self.recipe, GivenRecipe) else None
        return {**super().options(), "recipe": given}

    def unserved(self, context: MethodContext) -> str | None:
        """Refuse models whose grounding heads are not known, and budgets as the others do."""
        try:
            self._recipe(context)
        except ConfigError as error:
            return str(error) if self.recipe else f"{error}; the option recipe=FILE.json takes it"
        return super().unserved(context)

    def _recipe(self, context: MethodContext) -> LabelRecipe:
        given = self.recipe
        chosen = given.choice(context.backbone).recipe if isinstance(given, GivenRecipe) else None
        return chosen or context.recipe

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer:
        """Propose by attention, with a threshold relative to the map's maximum."""
        recipe = self._recipe(context)
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

"""Budgets of visual tokens as options of methods that look twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from sdrpn_bench.method import Method, MethodContext
from sdrpn_core.crops.budget import check_budget

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.question import Question
    from sdrpn_core.data.record import Record


@dataclass(frozen=True)
class BudgetedMethod(Method):
    """A method whose first look and crops may take fewer visual tokens than the processor gives.

    Attributes:
        first_look_tokens: largest number of visual tokens of each whole image.
        max_crop_tokens: crop budget, see :class:`~sdrpn_core.crops.budget.BudgetRule`; default:
            that of the crop policy, if there is one.

    Raises:
        ConfigError: a budget is below 1.
    """

    _: KW_ONLY
    first_look_tokens: int | None = None
    max_crop_tokens: int | None = None

    def __post_init__(self) -> None:
        check_budget(self.first_look_tokens, "first_look_tokens")
        check_budget(self.max_crop_tokens, "max_crop_tokens")

    def unserved(self, context: MethodContext) -> str | None:
        """Refuse budgets in families of fixed resolution."""
        if self.first_look_tokens is None and self.max_crop_tokens is None:
            return None
        return fixed_resolution(context.backbone)

    def questions(
        self, records: Sequence[Record], images: Sequence[tuple[Image.Image, ...]]
    ) -> list[Question]:
        """The questions of the records, with the first look."""
        return looking(super().questions(records, images), self.first_look_tokens)


def looking(questions: Sequence[Question], first_look_tokens: int | None) -> list[Question]:
    """Questions with a first look; ``None`` leaves it to the processor."""
    return [question.with_first_look(first_look_tokens) for question in questions]


def fixed_resolution(backbone: Backbone) -> str | None:
    """Why the number of visual tokens cannot be chosen; ``None`` if it can."""
    if backbone.dynamic_resolution:
        return None
    return "the family's resolution is fixed: every image takes the same number of visual tokens"

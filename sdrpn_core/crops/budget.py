"""The crop budget: how many visual tokens a crop may take, in families of dynamic resolution."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from sdrpn_core.util.whole_numbers import check_count


@dataclass(frozen=True)
class BudgetRule:
    """Encode crops at their own resolution, within a budget of visual tokens.

    A processor of dynamic resolution enlarges small images to its minimum number of pixels, and so
    it does small crops (published evaluations set that minimum to 128 visual tokens and more).
    Enlarging adds tokens, but nothing to see. Under a budget, a crop takes the smallest grid of
    visual tokens that keeps all its source pixels, and never more than the budget.

    Attributes:
        max_crop_tokens: visual tokens that a crop may take when it is encoded, before a mask drops
            any; what its source pixels do not fill is not taken. The backbone's own maximum bounds
            it as well, and the minimum of its family outranks it. ``None``: as published, what the
            processor makes of a crop. Families of fixed resolution refuse a budget.

    Raises:
        ConfigError: the budget is below 1.
    """

    _: KW_ONLY
    max_crop_tokens: int | None = None

    def __post_init__(self) -> None:
        check_budget(self.max_crop_tokens, "crop policy: max_crop_tokens")

    @property
    def crop_budget(self) -> int | None:
        """See ``CropPolicy.crop_budget``."""
        return self.max_crop_tokens


def check_budget(n_tokens: object, option: str) -> None:
    """Refuse budgets of no visual token.

    Args:
        n_tokens: the budget; ``None`` for none.
        option: how it is called in the message.

    Raises:
        ConfigError: it is no whole number, or below 1.
    """
    if n_tokens is not None:
        check_count(n_tokens, option)

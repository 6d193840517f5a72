"""Gate labels from what a crop is worth: does *the crop* make the reference response more likely?

Unlike the rule over a ladder of resolutions (:mod:`sdrpn_core.gate.budget_labels`), which asks
whether more pixels would help, this judges the very region that the gate decides about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sdrpn_core.errors import ConfigError
from sdrpn_core.labels.judged import DEFAULT_MARGIN
from sdrpn_core.labels.pseudo import IGNORE

#: Nats; with the crop the reference response is at most a tenth more likely.
DEFAULT_INDIFFERENCE = 0.1


@dataclass(frozen=True)
class UtilityMargins:
    """Which utilities count as help, and which as none; those between are ignored.

    Attributes:
        margin: nats; a crop that is worth more helps.
        indifference: nats; a crop that is worth no more than this does not.

    Raises:
        ConfigError: not numbers, or ``indifference`` above ``margin``.
    """

    margin: float = DEFAULT_MARGIN
    indifference: float = DEFAULT_INDIFFERENCE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and math.isfinite(self.indifference)):
            raise ConfigError("margin and indifference must be numbers of nats")
        if self.indifference > self.margin:
            raise ConfigError(
                f"the indifference {self.indifference} must not exceed the margin {self.margin}"
            )

    def label(self, utility: float) -> int:
        """1 if the crop helps, 0 if it does not, -100 if it is hard to say.

        Args:
            utility: nats, log-likelihood of the reference response with the crop minus without.
        """
        if utility > self.margin:
            return 1
        return 0 if utility <= self.indifference else IGNORE

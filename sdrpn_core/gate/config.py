"""GateConfig: which gate an RPN has, and above which probability the region is looked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, SupportsFloat

from sdrpn_core.errors import ConfigError
from sdrpn_core.util.dataclass_reader import read_dataclass

#: Of Q-Zoom's configuration (arXiv:2604.06912, ``high_res_thresh``).
DEFAULT_THRESHOLD = 0.1


@dataclass(frozen=True)
class Calibration:
    """How a gate's threshold was chosen: on held-out questions, for a stated loss of accuracy.

    Attributes:
        data: what the questions were called.
        fingerprint: of the questions.
        n: how many they were.
        metric: what accuracy is the mean of.
        max_loss: how far accuracy may lie below that of always cropping.
        always: accuracy of always cropping.
        never: accuracy of the plain answers.
        accuracy: accuracy with the threshold.
        difference: 95% interval of ``accuracy - always``, paired by question.
        skipped: share of the questions for which no region is looked for.
        first_look_tokens: largest number of visual tokens of a whole image; ``None`` if not
            limited.
        certain: whether the far end of that interval had to lie within ``max_loss``, too.
    """

    data: str
    fingerprint: str
    n: int
    metric: str
    max_loss: float
    always: float
    never: float
    accuracy: float
    difference: tuple[float, float]
    skipped: float
    first_look_tokens: int | None = None
    certain: bool = False


@dataclass(frozen=True)
class GateConfig:
    """Configuration of a gate, part of the RPN's ``config.json``.

    Attributes:
        name: registered name of the gate.
        options: the gate's options, by field.
        threshold: the region is looked for where the probability is at least this, from 0 (always)
            to 1.
        labels: where its labels came from, in a word or two; empty if unknown.
        calibration: how the threshold was chosen; ``None`` if it was not measured.

    Raises:
        ConfigError: a value is out of range.
    """

    name: str = "decoder"
    options: Mapping[str, Any] = field(default_factory=dict)
    threshold: float = DEFAULT_THRESHOLD
    labels: str = ""
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GateConfig:
        """Build from plain values.

        Raises:
            ConfigError: unknown fields, values of the wrong type or out of range.
        """
        return read_dataclass(cls, values, "gate settings")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def check_threshold(threshold: object) -> None:
    """Check a gate's threshold.

    Raises:
        ConfigError: it is no probability.
    """
    if not isinstance(threshold, SupportsFloat) or not 0 <= float(threshold) <= 1:
        raise ConfigError(f"the gate's threshold must lie between 0 and 1, not {threshold!r}")

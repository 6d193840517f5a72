"""Which confidence thresholds there are; nothing here imports torch."""

from __future__ import annotations

from sdrpn_core.errors import ConfigError

__all__ = ["check_confidence_threshold"]


def check_confidence_threshold(value: float) -> None:
    """Refuse what is no probability above 0.

    Raises:
        ConfigError: the value is not above 0, or above 1.
    """
    if not 0 < value <= 1:
        raise ConfigError(
            f"the confidence threshold must be a probability above 0, at most 1, not {value}"
        )

"""Which confidence thresholds there are; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

from sdrpn_core.errors import ConfigError

__all__ = ["check_cascade", "check_confidence_threshold"]


def check_cascade(
    threshold: float | None, *, has_proposer: bool, generation: Mapping[str, Any]
) -> None:
    """Refuse what does not go with a confidence threshold.

    Args:
        threshold: the confidence threshold; with ``None``, everything goes.
        has_proposer: whether there is something to look with.
        generation: arguments of ``generate()``.

    Raises:
        ConfigError: the threshold is no probability, there is no proposer, a ``streamer``, which
            would report an answer that may be replaced, or a ``custom_generate``, which does not
            say how likely its tokens are.
    """
    if threshold is None:
        return
    check_confidence_threshold(threshold)
    if not has_proposer:
        raise ConfigError("a confidence threshold decides about crops: give a proposer")
    if "streamer" in generation:
        raise ConfigError(
            "an answer with a confidence threshold cannot be streamed: it may be replaced"
        )
    if "custom_generate" in generation:
        raise ConfigError(
            "a confidence threshold needs the stock decoding: custom_generate does not say how "
            "likely its tokens are"
        )


def check_confidence_threshold(value: object) -> None:
    """Refuse a value that is not a probability above 0.

    Raises:
        ConfigError: the value is no number, not above 0, or above 1.
    """
    if not isinstance(value, SupportsFloat) or not 0 < float(value) <= 1:
        raise ConfigError(
            f"the confidence threshold must be a probability above 0, at most 1, not {value!r}"
        )

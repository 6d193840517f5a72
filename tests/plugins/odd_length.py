"""A metric for models with random weights."""

from __future__ import annotations

from sdrpn_core.data.record import Record


def odd_length(prediction: str, record: Record) -> bool:
    """A rule that a random model meets about every other time."""
    return len(prediction) % 2 == 1

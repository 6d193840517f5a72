"""Shares as percentages."""

from __future__ import annotations

_STEP = 0.001


def percent(share: float) -> str:
    """Format a share from 0 to 1 with one decimal; only 1 itself is shown as 100.0%."""
    rounded = round(share, 3)
    return f"{1 - _STEP if rounded >= 1 > share else rounded:.1%}"

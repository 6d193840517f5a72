"""Cells of a report's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdrpn_bench.percent import percent

#: Where there is nothing to say.
NONE = "–"

#: Columns that say whether a method looks at the right place; see the notes of the report.
MAP_HITS = "map peak in a true box"
CROP_HITS = "crop contains its center"


def share(values: Mapping[str, Any] | None) -> str:
    """An accuracy with its interval, or ``NONE``."""
    if not values:
        return NONE
    return with_interval(values["accuracy"], values["interval"])


def counted_share(values: Mapping[str, Any] | None) -> str:
    """A share with its interval, and of how many it is one; or ``NONE``."""
    if not values:
        return NONE
    return f"{share(values)}, {values['correct']} of {values['n']}"


def with_interval(value: float, interval: Sequence[float]) -> str:
    """A share with its interval, in percent."""
    low, high = map(percent, interval)
    return f"{percent(value)} ({low} to {high})"


def points(difference: Mapping[str, Any]) -> str:
    """A difference of shares with its interval, in percentage points."""
    low, high = difference["interval"]
    return f"{100 * difference['value']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) points"

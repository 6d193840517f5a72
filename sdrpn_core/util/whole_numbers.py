"""Whole numbers that callers give: those of NumPy are as good, truth values and text are none."""

from __future__ import annotations

from typing import SupportsIndex

from sdrpn_core.errors import ConfigError

__all__ = ["check_count", "check_counts", "is_whole"]


def is_whole(value: object) -> bool:
    """Whether a value is a whole number."""
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def check_count(count: object, what: str) -> None:
    """Check a number of things.

    Args:
        count: the number.
        what: what to call it in the message.

    Raises:
        ConfigError: it is no whole number, or below 1.
    """
    if not isinstance(count, SupportsIndex) or not is_whole(count) or int(count) < 1:
        raise ConfigError(f"{what} must be a whole number of at least 1, not {count!r}")


def check_counts(**counts: object) -> None:
    """Check several numbers of things, each called what it is named.

    Raises:
        ConfigError: names the first that is no whole number, or below 1.
    """
    for name, count in counts.items():
        check_count(count, name)

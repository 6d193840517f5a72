"""Numbers of bytes and values of any size, as people read them."""

from __future__ import annotations

import reprlib

_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEP = 1000

_MAX_STRING = 80
"""Characters of a quoted string: enough to find it in a file."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _MAX_STRING


def readable_bytes(count: float) -> str:
    """A number of bytes in the largest fitting decimal unit: ``readable_bytes(2.5e9) == "2.5 GB"``.

    Args:
        count: bytes, 0 or more.
    """
    value, unit = float(count), 0
    # 999.6 MB are a GB once they are rounded.
    while float(f"{value:.3g}") >= _STEP and unit + 1 < len(_UNITS):
        value, unit = value / _STEP, unit + 1
    return f"{value:.3g} {_UNITS[unit]}" if value < _STEP else f"{value:.0f} {_UNITS[unit]}"


def short_repr(value: object) -> str:
    """Return ``repr(value)`` with long strings and collections cut, for messages.

    Args:
        value: Anything; an image that a row holds as base64 text, for example.
    """
    return _SHORT.repr(value)

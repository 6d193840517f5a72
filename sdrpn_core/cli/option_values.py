"""Options given as ``KEY=VALUE``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sdrpn_core.errors import ConfigError

__all__ = ["parse_counts", "parse_options"]


def parse_options(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """Read ``["threshold=0.1", "relative=true"]`` as ``{"threshold": 0.1, "relative": True}``.

    Args:
        pairs: texts; values are JSON, and text where they are not. ``NaN`` and ``Infinity``, which
            JSON lacks, are text.
        option: the option's name, for messages.

    Raises:
        ConfigError: no ``=``, no key, or a key given twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        key = key.strip()
        if not separator or not key:
            raise ConfigError(f"{option} {pair!r}: write KEY=VALUE")
        if key in values:
            raise ConfigError(f"{option} {key!r} is given twice")
        try:
            values[key] = json.loads(text, parse_constant=_refuse)
        except ValueError:
            values[key] = text
        except RecursionError as error:
            raise ConfigError(f"{option} {key!r}: its value is nested too deeply") from error
    return values


def parse_counts(text: str, option: str) -> list[int]:
    """Read ``"64,256"`` as ``[64, 256]``.

    Args:
        text: positive numbers between commas; may be empty.
        option: the option's name, for messages.

    Raises:
        ConfigError: something else.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and int(word) for word in words):
        raise ConfigError(f"{option} {text!r}: write positive numbers, N1,N2,...")
    return [int(word) for word in words]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")

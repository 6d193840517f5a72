"""JSON objects in files: read with one clear line for whatever is wrong, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdrpn_core.errors import ConfigError, SdrpnError
from sdrpn_core.util.atomic_files import atomic_write

__all__ = ["parse_json_object", "read_json_object", "write_json"]


def parse_json_object(
    text: str, what: str, error: type[SdrpnError] = ConfigError
) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: the JSON. ``NaN`` and ``Infinity``, which Python writes and JSON lacks, are refused.
        what: what it is, as messages call it.
        error: class of the exception.

    Raises:
        SdrpnError: of the class ``error``: not JSON, or not an object.
    """
    try:
        values = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as reason:
        raise error(f"{what}: not JSON: {' '.join(str(reason).split())}") from reason
    if not isinstance(values, dict):
        raise error(f"{what}: expected a JSON object, found {type(values).__name__}")
    return values


def read_json_object(path: Path, error: type[SdrpnError] = ConfigError) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Args:
        path: the file.
        error: class of the exception.

    Raises:
        SdrpnError: of the class ``error``: it cannot be read, or is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror})") from reason
    except UnicodeDecodeError as reason:
        raise error(f"{path}: not JSON: {reason}") from reason
    return parse_json_object(text, str(path), error)


def write_json(path: Path, values: Mapping[str, Any], *, sort_keys: bool = False) -> None:
    """Write indented JSON, atomically.

    Args:
        path: the file.
        values: plain JSON values.
        sort_keys: write the keys in alphabetical order.

    Raises:
        SdrpnError: it cannot be written.
    """
    text = json.dumps(values, indent=2, sort_keys=sort_keys) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not allowed")

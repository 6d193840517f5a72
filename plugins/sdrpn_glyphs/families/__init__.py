"""The families with an embedded backbone: how each is built, and how it is trained."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from sdrpn_core.errors import UnknownNameError

if TYPE_CHECKING:
    from .base import Family

#: Modules by name, imported when they are asked for.
NAMES: MappingProxyType[str, str] = MappingProxyType(
    {
        "llava": "llava",
        "qwen2_5_vl": "qwen2_5_vl",
        "deepseek_vl": "deepseek_vl",
    }
)


@cache
def family(name: str) -> Family:
    """A family by its name.

    Raises:
        UnknownNameError: there is no embedded backbone of that name.
    """
    if name not in NAMES:
        raise UnknownNameError("embedded backbone", name, NAMES)
    found: Family = import_module(f"{__name__}.{NAMES[name]}").FAMILY
    return found

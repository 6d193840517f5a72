"""The families with an embedded backbone: how each model is built and trained."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from sdrpn_core.errors import UnknownNameError

if TYPE_CHECKING:
    from sdrpn_glyphs.families.base import Family

#: Modules by name, imported on demand.
NAMES: MappingProxyType[str, str] = MappingProxyType(
    {
        "llava": "llava",
        "qwen2_5_vl": "qwen2_5_vl",
        "deepseek_vl": "deepseek_vl",
    }
)


def check_name(name: str) -> None:
    """Check that an embedded backbone has a name.

    Raises:
        UnknownNameError: none has it.
    """
    if name not in NAMES:
        raise UnknownNameError("embedded backbone", name, NAMES)


@cache
def family(name: str) -> Family:
    """Look up a family by name.

    Raises:
        UnknownNameError: no embedded backbone has that name.
    """
    check_name(name)
    found: Family = import_module(f"{__name__}.{NAMES[name]}").FAMILY
    return found

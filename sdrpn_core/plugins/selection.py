"""Which plugins are loaded, and in which order.

The environment variable ``SDRPN_PLUGINS`` selects: unset loads all, an empty value only ``core``,
``a,b`` only those and ``core``, ``-a,-b`` all but those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdrpn_core.errors import CORE_PLUGIN, ConfigError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

__all__ = ["SELECTION_VARIABLE", "loading_order", "select"]

SELECTION_VARIABLE = "SDRPN_PLUGINS"

_DISTRIBUTION = "sdrpn"


def loading_order(entry_point: EntryPoint) -> tuple[bool, bool, str]:
    """Sort key: core first, then what ships with it: in a clash the addition is at fault."""
    distribution = entry_point.dist
    ours = distribution is not None and distribution.name == _DISTRIBUTION
    return entry_point.name != CORE_PLUGIN, not ours, entry_point.name


def select(selection: str | None, known: Iterable[str]) -> set[str]:
    """The plugins that a value of ``SDRPN_PLUGINS`` enables.

    Args:
        selection: The value; ``None`` if the variable is not set.
        known: The names of all installed plugins.

    Raises:
        UnknownNameError: ``selection`` names a plugin that is not installed.
        ConfigError: ``selection`` mixes both forms, or disables the core.
    """
    installed = set(known)
    if selection is None:
        return installed
    words = [word.strip() for word in selection.split(",") if word.strip()]
    excluded = {word[1:].strip() for word in words if word.startswith("-")}
    included = {word for word in words if not word.startswith("-")}
    if excluded and included:
        raise ConfigError(
            f"{SELECTION_VARIABLE}={selection!r} mixes plugins to load with plugins to leave out; "
            "write 'a,b' (only those) or '-a,-b' (all but those)"
        )
    for name in sorted(excluded | included):
        if name not in installed:
            raise UnknownNameError("plugin", name, installed, where=f"in {SELECTION_VARIABLE}")
    if CORE_PLUGIN in excluded:
        raise ConfigError(
            f"{SELECTION_VARIABLE}={selection!r} leaves out {CORE_PLUGIN!r}: "
            "it cannot be disabled, everything else needs it"
        )
    return installed - excluded if excluded else included | {CORE_PLUGIN}

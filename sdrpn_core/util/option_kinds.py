"""Options of what is registered by name: known ones, of the kind of their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdrpn_core.errors import ConfigError

__all__ = ["complete_options"]


def complete_options(
    owner: str, given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that were given, and the defaults of the others.

    Args:
        owner: whose they are, as messages call it.
        given: plain JSON values.
        defaults: of all options. A whole number may stand for a default with a fraction; a default
            of ``None`` leaves the kind open.

    Raises:
        ConfigError: an option is unknown, or of another kind than its default.
    """
    if unknown := sorted(given.keys() - defaults.keys()):
        known = ", ".join(sorted(defaults)) or "none"
        raise ConfigError(f"the {owner} has no option {', '.join(unknown)}; its options: {known}")
    for name, value in given.items():
        default = defaults[name]
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        # Not isinstance: a bool is an int.
        if default is not None and type(value) not in kinds:
            raise ConfigError(
                f"{name} of the {owner} must be of the kind of its default {default!r}, not "
                f"{'null' if value is None else type(value).__name__}"
            )
    return {**defaults, **given}

"""A method with its options; what is wrong with them is said by the method's name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_bench.method import Method

__all__ = ["configured_method"]


def configured_method(name: str, cls: type[Method], options: Mapping[str, Any]) -> Method:
    """Make a method with these options, the others at their defaults.

    Args:
        name: what the user calls it; of the class, no user knows.
        cls: the method.
        options: by name.

    Raises:
        ConfigError: the method lacks an option (names a near one), or refuses a value.
    """
    try:
        return cls.from_options(options)
    except ConfigError as error:
        if is_dataclass(cls):
            known = [field.name for field in fields(cls) if field.init]
            for option in options:
                if option not in known:
                    raise ConfigError(f"method {name!r} {_lacks(option, known)}") from error
        reason = str(error).removeprefix(f"{cls.__name__}: ")
        raise ConfigError(f"method {name!r}: {reason}") from error


def _lacks(option: str, known: list[str]) -> str:
    near = difflib.get_close_matches(option, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"has no option {option!r}; {hint}options: {', '.join(known) or 'none'}"

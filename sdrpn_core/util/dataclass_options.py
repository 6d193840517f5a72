"""Options given by name: the fields of a dataclass, with a clear word about those it lacks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from sdrpn_core.errors import ConfigError

T = TypeVar("T")


def from_options(cls: type[T], options: Mapping[str, Any]) -> T:
    """A dataclass with these fields, the others at their defaults.

    Raises:
        ConfigError: an unknown field (names the near ones), or what the class itself refuses.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # any dataclass
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{cls.__name__}: unknown option {name!r}; {hint}"
                f"options: {', '.join(known) or 'none'}"
            )
    return cls(**options)

"""A named table that plugins fill and that resolves its targets on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sdrpn_core.errors import ConfigError, PluginError, SdrpnError, UnknownNameError

__all__ = ["Entry", "Registry"]

T = TypeVar("T")

_NO_PLUGIN = "(no plugin)"
"""Origin of what was added to a registry directly, outside any plugin's hook."""


@dataclass(frozen=True)
class Entry:
    """One registration.

    Attributes:
        name: Unique within its registry.
        target: The object itself, or where to import it from: ``"package.module:attr"``.
        origin: The plugin that registered it.
        help: One line for listings.
        metadata: Facts that can be read without importing the target.
    """

    name: str
    target: object
    origin: str
    help: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


class Registry(Generic[T]):
    """Names of one kind of thing, in the order of registration.

    Args:
        kind: What it holds, as error messages call it: ``"RPN head"``.
        hint: Called when a name is unknown; may return a reason why it could be missing.
    """

    def __init__(self, kind: str, *, hint: Callable[[], str] = str) -> None:
        self.kind = kind
        self._hint = hint
        self._entries: dict[str, Entry] = {}
        self._resolved: dict[str, T] = {}
        self._origin = _NO_PLUGIN

    def add(self, name: str, target: T | str, *, help: str = "", **metadata: Any) -> None:
        """Register ``target`` under ``name``.

        Args:
            name: Unique within this registry.
            target: The object, or ``"package.module:attr"``: imported on first use, so that
                registering stays cheap.
            help: One line for listings.
            **metadata: Facts that must be readable without importing the target.

        Raises:
            PluginError: The name is taken (both plugins are named), or it or the target is
                malformed. Outside any plugin's hook: ConfigError.
        """
        if not name or name != name.strip():
            raise self._fault(f"{self.kind} name {name!r} is not a plain word")
        if name in self._entries:
            other = self._entries[name].origin
            raise self._fault(f"{self.kind} {name!r} is already registered by plugin {other!r}")
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            if not module or not attribute:
                raise self._fault(
                    f"target {target!r} of {self.kind} {name!r} is not 'package.module:attr'"
                )
        self._entries[name] = Entry(name, target, self._origin, help, metadata)

    def get(self, name: str) -> T:
        """The object registered under ``name``, imported on first use.

        Raises:
            UnknownNameError: No plugin registers it; near names are listed.
            PluginError: Its module or attribute cannot be imported; the plugin is named.
        """
        entry = self.entry(name)
        if name not in self._resolved:
            self._resolved[name] = self._resolve(entry)
        return self._resolved[name]

    def entry(self, name: str) -> Entry:
        """The registration itself, nothing imported.

        Raises:
            UnknownNameError: No plugin registers it; near names are listed.
        """
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries, hint=self._hint())
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._entries)

    def entries(self) -> list[Entry]:
        """All registrations, in order, nothing imported."""
        return list(self._entries.values())

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {self.names()})"

    @contextmanager
    def registering_as(self, origin: str) -> Iterator[None]:
        """Attribute what is added inside the block to the plugin ``origin``."""
        previous, self._origin = self._origin, origin
        try:
            yield
        finally:
            self._origin = previous

    def remove_origin(self, origin: str) -> None:
        """Forget everything the plugin ``origin`` registered."""
        for name in [entry.name for entry in self._entries.values() if entry.origin == origin]:
            del self._entries[name]
            self._resolved.pop(name, None)

    def _fault(self, reason: str) -> SdrpnError:
        if self._origin == _NO_PLUGIN:
            return ConfigError(reason)
        return PluginError(self._origin, reason)

    def _resolve(self, entry: Entry) -> T:
        if not isinstance(entry.target, str):
            return entry.target  # type: ignore[return-value]  # add() only takes a T or a str
        module, _, attribute = entry.target.partition(":")
        try:
            resolved: Any = importlib.import_module(module)
            for part in attribute.split("."):
                resolved = getattr(resolved, part)
        except SdrpnError:
            raise  # already one line that says what to do, such as a missing extra
        except Exception as error:  # third-party code: an import may raise anything
            raise PluginError(
                entry.origin,
                f"cannot import {self.kind} {entry.name!r} from {entry.target!r}: "
                f"{type(error).__name__}: {error}",
            ) from error
        return resolved

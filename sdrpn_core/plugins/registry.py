"""A named table that plugins fill and that resolves its targets on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sdrpn_core.errors import ConfigError, PluginError, SdrpnError, UnknownNameError
from sdrpn_core.plugins.isolation import contained, printing_by_name

__all__ = ["Entry", "Kind", "Registry", "import_target"]

T = TypeVar("T")

_NO_PLUGIN = "(no plugin)"
"""Origin of what was added to a registry directly, outside any plugin's hook."""


@dataclass(frozen=True)
class Kind:
    """What one registry holds, and how a target that is something else is told from it.

    Attributes:
        label: what error messages call it: ``"RPN head"``.
        has: attributes that every target has; those of the class that it derives from.
        called: whether targets are called.
        by_model_type: whether the metadata ``model_types`` say for which models a target is.
        needs_model_types: whether a target without them would never be found.
    """

    label: str
    has: tuple[str, ...] = ()
    called: bool = True
    by_model_type: bool = False
    needs_model_types: bool = False

    def fault(self, target: object) -> str:
        """Why this cannot be a target; empty if it can."""
        if self.called and not callable(target):
            return f"is {_named(target)}, which cannot be called"
        missing = [name for name in self.has if not hasattr(target, name)]
        return f"is {_named(target)}, which has no {missing[0]!r}" if missing else ""


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
        kind: What it holds.
        hint: Called when a name is unknown; may return a reason why it could be missing.
    """

    def __init__(self, kind: Kind, *, hint: Callable[[], str] = str) -> None:
        self.kind = kind.label
        self._kind = kind
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
        if not _is_word(name):
            raise self._fault(f"{self.kind} name {name!r} is not a plain word")
        if name in self._entries:
            other = self._entries[name].origin
            raise self._fault(f"{self.kind} {name!r} is already registered by plugin {other!r}")
        if type(help) is not str:
            raise self._fault(f"the help of {self.kind} {name!r} is {_named(help)}, not a line")
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            if not module or not attribute:
                raise self._fault(
                    f"target {target!r} of {self.kind} {name!r} is not 'package.module:attr'"
                )
        elif fault := self._kind.fault(target):
            raise self._fault(f"{self.kind} {name!r} {fault}")
        types = metadata.get("model_types", ())
        if self._kind.by_model_type and not _are_words(types):
            raise self._fault(
                f"model_types of {self.kind} {name!r} are {_named(types)}, not a tuple of names"
            )
        if self._kind.needs_model_types and not types:
            raise self._fault(
                f"{self.kind} {name!r} has no model_types, so no model would lead to it: pass "
                "registry.add(..., model_types=(...)), the values of config.model_type that it "
                "serves"
            )
        self._entries[name] = Entry(name, target, self._origin, " ".join(help.split()), metadata)

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

    def entry(self, name: object) -> Entry:
        """The registration itself, nothing imported.

        Raises:
            UnknownNameError: No plugin registers it; near names are listed.
        """
        # A caller may hand over anything, and not everything can be looked up.
        if not isinstance(name, str) or name not in self._entries:
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
        resolved: T = import_target(entry.target, entry.origin, f"{self.kind} {entry.name!r}")
        with contained(entry.origin, f"cannot use {self.kind} {entry.name!r}"):
            fault = self._kind.fault(resolved)
        if fault:
            raise PluginError(
                entry.origin, f"{self.kind} {entry.name!r} from {entry.target!r} {fault}"
            )
        return resolved


def import_target(target: str, plugin: str, what: str) -> Any:
    """What ``"package.module:attr"`` names.

    Args:
        target: where it is.
        plugin: who is at fault if it is not there.
        what: what it is to be, for messages: ``"RPN head 'qk'"``.

    Raises:
        PluginError: it cannot be imported, whatever its module raises.
        SdrpnError: its module raises one, which says what to do, such as a missing extra.
    """
    module, _, attribute = target.partition(":")
    advice: SdrpnError | None = None
    with (
        printing_by_name(plugin),
        contained(plugin, f"cannot import {what} from {target!r}"),
    ):
        try:
            resolved: Any = importlib.import_module(module)
            for part in attribute.split("."):
                resolved = getattr(resolved, part)
        except SdrpnError as error:
            advice = error
    if advice is not None:
        raise advice
    return resolved


def _is_word(name: object) -> bool:
    """A name that can be typed in a shell: no spaces, nothing invisible, and not an option."""
    return (
        type(name) is str  # not a subclass, whose methods may do anything
        and name.isprintable()
        and name.split() == [name]
        and not name.startswith("-")
    )


def _are_words(names: object) -> bool:
    return isinstance(names, tuple | list) and all(map(_is_word, names))


def _named(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__!r}"

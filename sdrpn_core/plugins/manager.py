"""Find plugins, load each in isolation, and keep what they register.

A plugin is a module named by an entry point of the group ``sdrpn``; the core's own parts come the
same way, as plugin ``core``. A plugin that cannot be loaded is recorded as failed, with the reason,
and leaves nothing behind: everything else keeps working.

The environment variable ``SDRPN_PLUGINS`` selects plugins, see :mod:`sdrpn_core.plugins.selection`.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from sdrpn_core.errors import PluginError, UnknownNameError
from sdrpn_core.plugins import hookspecs
from sdrpn_core.plugins.isolation import contained, process_kept
from sdrpn_core.plugins.registry import Kind, Registry
from sdrpn_core.plugins.selection import SELECTION_VARIABLE, loading_order, select

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["CORE_API", "PluginInfo", "Plugins", "get_plugins"]

CORE_API = 1
"""Version of the hooks and the interfaces behind them: what a plugin's ``SDRPN_API`` must equal."""

ENTRY_POINT_GROUP = "sdrpn"

KINDS = {
    "backbones": Kind(
        "backbone", has=("preprocess", "encode"), by_model_type=True, needs_model_types=True
    ),
    "presets": Kind("preset", has=("matches", "recipe"), called=False, by_model_type=True),
    "gates": Kind("gate", has=("defaults", "n_own_layers", "forward")),
    "rpn_heads": Kind("RPN head", has=("defaults", "forward")),
    "geometries": Kind("geometry", has=("to_source", "to_grid")),
    "crop_policies": Kind("crop policy", has=("from_options", "plan")),
    "pseudo_labelers": Kind("pseudo-labeler"),
    "datasets": Kind("dataset"),
    "label_engines": Kind("label engine", has=("from_options", "run")),
    "methods": Kind("method", has=("from_options", "proposer")),
    "metrics": Kind("metric", has=("from_options", "score")),
    "commands": Kind("command"),
}
"""Attribute of :class:`Plugins`, which also ends the hook's name -> what it holds."""


@dataclass(frozen=True)
class PluginInfo:
    """What is known about one plugin.

    Attributes:
        name: Name of its entry point.
        version: Version of the distribution it comes from; empty if it has none.
        origin: That distribution's name, or the module's for one registered by hand.
        status: ``"disabled"`` means that ``SDRPN_PLUGINS`` leaves it out.
        error: Why it failed; ``None`` unless it did.
        registers: Kind (``"backbones"``, ...) -> names, without empty kinds.
    """

    name: str
    version: str
    origin: str
    status: Literal["ok", "failed", "disabled"]
    error: str | None = None
    registers: dict[str, list[str]] = field(default_factory=dict)


class Plugins:
    """All registries, and a record of each plugin that filled them."""

    def __init__(self) -> None:
        self._infos: dict[str, PluginInfo] = {}
        self._registries: dict[str, Registry[Any]] = {
            attribute: Registry(kind, hint=self._failure_hint) for attribute, kind in KINDS.items()
        }
        self.backbones = self._registries["backbones"]
        self.presets = self._registries["presets"]
        self.gates = self._registries["gates"]
        self.rpn_heads = self._registries["rpn_heads"]
        self.geometries = self._registries["geometries"]
        self.crop_policies = self._registries["crop_policies"]
        self.pseudo_labelers = self._registries["pseudo_labelers"]
        self.datasets = self._registries["datasets"]
        self.label_engines = self._registries["label_engines"]
        self.methods = self._registries["methods"]
        self.metrics = self._registries["metrics"]
        self.commands = self._registries["commands"]

    @property
    def infos(self) -> list[PluginInfo]:
        """One record per plugin, in the order of loading."""
        return list(self._infos.values())

    @property
    def failures(self) -> list[PluginInfo]:
        """The plugins that could not be loaded."""
        return [info for info in self.infos if info.status == "failed"]

    def load(self, entry_points: Iterable[EntryPoint], selection: str | None = None) -> None:
        """Load entry points, each in isolation.

        Args:
            entry_points: Those of the group ``sdrpn``.
            selection: A value of ``SDRPN_PLUGINS``; ``None`` loads all.

        Raises:
            UnknownNameError: ``selection`` names a plugin that does not exist.
            ConfigError: ``selection`` mixes both forms, or disables the core.
        """
        ordered = sorted(entry_points, key=loading_order)
        chosen = select(selection, [entry_point.name for entry_point in ordered])
        for entry_point in ordered:
            self._load_entry_point(entry_point, enabled=entry_point.name in chosen)

    def register(self, module: object, name: str) -> None:
        """Add a plugin by hand, for a test or a notebook.

        Args:
            module: A module, or any object with ``SDRPN_API`` and hook implementations.
            name: Unique among the plugins.

        Raises:
            PluginError: The plugin is broken; nothing of it stays registered.
        """
        if name in self._infos:
            raise PluginError(name, "a plugin of this name is already loaded")
        self._admit(name, "cannot be loaded", lambda: module)
        with contained(name, "cannot be described"):
            origin = str(getattr(module, "__name__", type(module).__name__))
            version = str(getattr(module, "__version__", ""))
        self._record(PluginInfo(name, version, origin, "ok", registers=self._registered_by(name)))

    def unregister(self, name: str) -> None:
        """Remove a plugin and everything it registered.

        Raises:
            UnknownNameError: No such plugin.
        """
        if name not in self._infos:
            raise UnknownNameError("plugin", name, self._infos)
        del self._infos[name]
        self._withdraw(name)

    def report(self, name: str, error: PluginError) -> None:
        """Record a plugin that failed before it could be loaded."""
        self._record(PluginInfo(name, "", name, "failed", str(error)))

    def _load_entry_point(self, entry_point: EntryPoint, *, enabled: bool) -> None:
        name = entry_point.name
        distribution = entry_point.dist
        origin = str(distribution.name) if distribution else entry_point.value
        version = str(distribution.version or "") if distribution else ""
        if not enabled:
            self._record(PluginInfo(name, version, origin, "disabled"))
            return
        if name in self._infos:  # the first one's record and registrations stand
            first = self._infos[name].origin
            clash = PluginError(
                name,
                f"both {first} and {origin} provide a plugin of this name",
                remedy=f"uninstall one (that of {first} is used)",
            )
            record = PluginInfo(f"{name} ({origin})", version, origin, "failed", str(clash))
            self._record(record)
            return
        try:
            self._admit(name, f"cannot import {entry_point.value!r}", entry_point.load)
        except PluginError as error:
            self._record(PluginInfo(name, version, origin, "failed", str(error)))
        else:
            self._record(
                PluginInfo(name, version, origin, "ok", registers=self._registered_by(name))
            )

    def _admit(self, name: str, finding: str, find: Callable[[], object]) -> None:
        """Find the plugin's module and let it register; on any failure leave nothing behind."""
        try:
            with process_kept(name):
                with contained(name, finding):
                    module = find()
                with contained(name, "cannot be loaded"):
                    _check_api(module, name)
                    _check_markers(module, name)
                self._run_hooks(module, name)
        except BaseException:
            self._withdraw(name)
            raise

    def _run_hooks(self, module: object, name: str) -> None:
        manager = pluggy.PluginManager(hookspecs.PROJECT)  # its own: it cannot reach the others
        manager.add_hookspecs(hookspecs)
        with contained(name, "cannot be loaded"):
            try:
                manager.register(module, name)
                manager.check_pending()
            except pluggy.PluginValidationError as error:
                known = ", ".join(hookspecs.HOOK_PREFIX + attribute for attribute in KINDS)
                raise PluginError(name, f"{error}; the hooks are {known}") from error
        for attribute, registry in self._registries.items():
            hook = getattr(manager.hook, hookspecs.HOOK_PREFIX + attribute)
            with registry.registering_as(name), contained(name, "a hook raised"):
                hook(registry=registry)

    def _withdraw(self, name: str) -> None:
        for registry in self._registries.values():
            registry.remove_origin(name)

    def _registered_by(self, name: str) -> dict[str, list[str]]:
        names = {
            attribute: [entry.name for entry in registry.entries() if entry.origin == name]
            for attribute, registry in self._registries.items()
        }
        return {attribute: found for attribute, found in names.items() if found}

    def _record(self, info: PluginInfo) -> None:
        self._infos[info.name] = info

    def _failure_hint(self) -> str:
        missing = [info.name for info in self.infos if info.status != "ok"]
        return f"plugins not loaded: {', '.join(missing)}, see `sdrpn plugins`" if missing else ""


def _check_api(module: object, name: str) -> None:
    api = getattr(module, "SDRPN_API", None)
    if api is None:
        raise PluginError(name, f"does not define SDRPN_API (it is {CORE_API} for this sdrpn)")
    if api != CORE_API:
        raise PluginError(
            name, f"was written for plugin API {api!r}, this sdrpn has plugin API {CORE_API}"
        )


def _check_markers(module: object, name: str) -> None:
    """A hook that lacks its marker would be dead without a word."""
    for attribute in dir(module):
        if attribute.startswith(hookspecs.HOOK_PREFIX):
            value = getattr(module, attribute)
            if not inspect.isroutine(value):
                raise PluginError(name, f"{attribute} is no function")
            if not hasattr(value, f"{hookspecs.PROJECT}_impl"):
                raise PluginError(name, f"{attribute} is not marked with @sdrpn_core.hookimpl")


def installed_entry_points() -> tuple[list[EntryPoint], dict[str, PluginError]]:
    """The entry points of the group, and the distributions whose lists are broken.

    As ``importlib.metadata.entry_points``, for which one broken distribution hides all others.
    """
    found: dict[str, list[EntryPoint]] = {}
    broken: dict[str, PluginError] = {}
    for distribution in importlib.metadata.distributions():
        name = "unknown"
        try:
            with contained(name, "the list of its entry points is broken"):
                # Other packages' lists are read as well: only a list itself says what it is of.
                ours = [ep for ep in distribution.entry_points if ep.group == ENTRY_POINT_GROUP]
                if ours:  # the first of several copies on the path is the one that is imported
                    found.setdefault(str(distribution.name).lower(), ours)
        except PluginError as error:
            with suppress(Exception):  # its metadata may be broken as well
                name = str(distribution.name)
            remedy = "install that distribution again, or remove it"
            broken[name] = PluginError(name, error.reason, remedy=remedy)
    return [entry_point for ours in found.values() for entry_point in ours], broken


_lock = threading.Lock()
_plugins: Plugins | None = None


def get_plugins() -> Plugins:
    """The plugins of this process, loaded on the first call.

    Raises:
        UnknownNameError: ``SDRPN_PLUGINS`` names a plugin that does not exist.
        ConfigError: ``SDRPN_PLUGINS`` mixes both forms, or disables the core.
    """
    global _plugins
    with _lock:
        if _plugins is None:
            plugins = Plugins()
            found, broken = installed_entry_points()
            plugins.load(found, os.environ.get(SELECTION_VARIABLE))
            for name, error in broken.items():
                plugins.report(name, error)
            _plugins = plugins
        return _plugins

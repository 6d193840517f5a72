"""The hooks a plugin may implement: one per kind of thing it can add.

A plugin is a module that an entry point of the group ``sdrpn`` names. It defines ``SDRPN_API`` and
any of these functions, marked with :data:`sdrpn_core.hookimpl`::

    from sdrpn_core import hookimpl

    SDRPN_API = 1

    @hookimpl
    def sdrpn_register_rpn_heads(registry):
        registry.add("mine", "my_package.head:MyHead", help="what it does, in one line")

Registering a string keeps the plugin cheap to load: its module is imported when the name is first
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from sdrpn_core.plugins.registry import Registry

__all__ = ["HOOK_PREFIX", "PROJECT", "hookimpl", "hookspec"]

PROJECT = "sdrpn"
HOOK_PREFIX = "sdrpn_register_"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def sdrpn_register_backbones(registry: Registry[Any]) -> None:
    """Add model families: a ``Backbone`` subclass; metadata ``model_types=("...",)``."""


@hookspec
def sdrpn_register_presets(registry: Registry[Any]) -> None:
    """Add presets for known models: a ``Preset``; metadata ``model_types=("...",)``."""


@hookspec
def sdrpn_register_rpn_heads(registry: Registry[Any]) -> None:
    """Add RPN heads: classes that turn RPN features into a score per grid cell."""


@hookspec
def sdrpn_register_gates(registry: Registry[Any]) -> None:
    """Add gates: ``Gate`` subclasses, which say whether a question needs a region."""


@hookspec
def sdrpn_register_geometries(registry: Registry[Any]) -> None:
    """Add geometries: ``Geometry`` subclasses, each under its ``kind``."""


@hookspec
def sdrpn_register_crop_policies(registry: Registry[Any]) -> None:
    """Add crop policies: ``CropPolicy`` subclasses, from an RoI map to crops."""


@hookspec
def sdrpn_register_pseudo_labelers(registry: Registry[Any]) -> None:
    """Add pseudo-labelers: from grounding and sink maps to labels in {-100, 0, 1}."""


@hookspec
def sdrpn_register_datasets(registry: Registry[Any]) -> None:
    """Add datasets: ``(n: int | None, seed: int) -> Sequence[Record]``.

    Metadata for the benchmark, all optional: ``metric``, ``total``, ``max_new_tokens`` and
    ``published``; see :mod:`sdrpn_bench.published`.
    """


@hookspec
def sdrpn_register_label_engines(registry: Registry[Any]) -> None:
    """Add label engines: ``LabelEngine`` subclasses, which decide where shards are made."""


@hookspec
def sdrpn_register_methods(registry: Registry[Any]) -> None:
    """Add benchmark methods: ways to answer a question that the benchmark compares."""


@hookspec
def sdrpn_register_metrics(registry: Registry[Any]) -> None:
    """Add metrics: a ``Metric`` subclass, which scores an answer from 0 to 1."""


@hookspec
def sdrpn_register_commands(registry: Registry[Any]) -> None:
    """Add commands to ``sdrpn``: ``"module:function"``, typer style, with a one-line ``help``."""

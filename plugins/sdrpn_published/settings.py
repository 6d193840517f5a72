"""From a published configuration to an RPN's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from sdrpn_core.errors import CheckpointError
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_published.layouts import Layout

T = TypeVar("T", int, str, bool)

#: ``roi_source`` -> the qk head's source.
_SOURCES = {"qk": "projections", "hidden_states": "hidden_states"}

#: The published default for maps that are distributions: a share of the maximum, and with it a mask
#: that is full.
_DISTRIBUTION_POLICY = {"threshold": 0.15, "relative": True, "whole_grid": True}


def rpn_config(published: Mapping[str, Any], layout: Layout, where: str) -> RPNConfig:
    """The configuration of the RPN that a published checkpoint holds.

    The crop policy is that of the published evaluation: one crop around all regions, tokens outside
    them dropped.

    Args:
        published: its ``config.json``.
        layout: its family.
        where: its place, for messages.

    Raises:
        CheckpointError: not an SD-RPN checkpoint, or a setting is missing, of the wrong type or
            unknown.
        ConfigError: a value out of range.
    """
    if not published.get("enable_twig"):
        raise CheckpointError(
            f"{where}: enable_twig is not set: the model has no region proposal network"
        )
    source = _setting(published, "roi_source", str, where)
    if source not in _SOURCES:
        raise CheckpointError(
            f"{where}: unknown roi_source {source!r}; known: {', '.join(_SOURCES)}"
        )
    config = RPNConfig(
        branch=_setting(published, "twig_K", int, where),
        n_layers=_setting(published, "twig_T", int, where),
        head=layout.head,
        head_options={
            "rope": layout.rope,
            "multi_head": _setting(published, "roi_multi_head", bool, where),
            "source": _SOURCES[source],
        },
        final_norm=_setting(published, "roi_super_type", str, where) in layout.norm_for,
        loss=_setting(published, "roi_loss", str, where),
        policy="mask",
        policy_options=layout.policy_options,
    )
    if not config.is_distribution:
        return config
    return replace(config, policy_options={**layout.policy_options, **_DISTRIBUTION_POLICY})


def _setting(published: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    if name not in published:
        raise CheckpointError(f"{where}: config.json does not say {name}")
    value = published[name]
    if type(value) is not kind:  # bool is an int to isinstance
        raise CheckpointError(
            f"{where}: {name} in config.json must be of type {kind.__name__}, not {value!r}"
        )
    return value

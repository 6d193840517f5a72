"""From a published configuration to an RPN's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdrpn_core.errors import CheckpointError
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_published.layouts import Layout

#: ``roi_source`` -> the qk head's source.
_SOURCES = {"qk": "projections", "hidden_states": "hidden_states"}

#: The published default for maps that are distributions: a share of the maximum.
_DISTRIBUTION_POLICY = {"threshold": 0.15, "relative": True}


def rpn_config(published: Mapping[str, Any], layout: Layout, where: str) -> RPNConfig:
    """The configuration of the RPN that a published checkpoint holds.

    The crop policy is that of the published evaluation: one crop around all regions, tokens outside
    them dropped.

    Args:
        published: its ``config.json``.
        layout: its family.
        where: its place, for messages.

    Raises:
        CheckpointError: not an SD-RPN checkpoint, or a setting is missing or unknown.
        ConfigError: a value out of range.
    """
    if not published.get("enable_twig"):
        raise CheckpointError(
            f"{where}: enable_twig is not set: the model has no region proposal network"
        )
    source = _setting(published, "roi_source", where)
    if source not in _SOURCES:
        raise CheckpointError(
            f"{where}: unknown roi_source {source!r}; known: {', '.join(_SOURCES)}"
        )
    loss = str(_setting(published, "roi_loss", where))
    policy_options = dict(layout.policy_options)
    config = RPNConfig(
        branch=int(_setting(published, "twig_K", where)),
        n_layers=int(_setting(published, "twig_T", where)),
        head="qk",
        head_options={
            "rope": layout.rope,
            "multi_head": bool(_setting(published, "roi_multi_head", where)),
            "source": _SOURCES[source],
        },
        final_norm=_setting(published, "roi_super_type", where) in layout.norm_for,
        loss=loss,
        policy="mask",
        policy_options=policy_options,
    )
    if config.is_distribution:
        policy_options.update(_DISTRIBUTION_POLICY)
    return config


def _setting(published: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in published:
        raise CheckpointError(f"{where}: config.json does not say {name}")
    return published[name]

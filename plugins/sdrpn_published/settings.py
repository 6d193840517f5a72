"""Convert a published configuration to that of an RPN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from sdrpn_core.errors import CheckpointError, ConfigError
from sdrpn_core.gate.config import DEFAULT_THRESHOLD, GateConfig
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.util.dataclass_reader import read_dataclass
from sdrpn_published.layouts import Layout

#: ``roi_source`` -> the qk head's source.
_SOURCES = {"qk": "projections", "hidden_states": "hidden_states"}

#: The published default for maps that are distributions: a threshold relative to the maximum, which
#: implies a full mask.
_DISTRIBUTION_POLICY = {"threshold": 0.15, "relative": True, "whole_grid": True}


@dataclass(frozen=True)
class _Published:
    """The fields of a published ``config.json`` that say what its RPN is."""

    twig_K: int
    twig_T: int
    roi_source: str
    roi_multi_head: bool
    roi_super_type: str
    roi_loss: str


def rpn_config(published: Mapping[str, Any], layout: Layout, where: str) -> RPNConfig:
    """Make the configuration of the RPN in a published checkpoint.

    The crop policy is that of the published evaluation: one crop around all regions, whose tokens
    outside the regions are dropped.

    Args:
        published: its ``config.json``.
        layout: its family.
        where: its path, for messages.

    Raises:
        CheckpointError: not an SD-RPN checkpoint, or a setting is missing, of the wrong type or
            unknown.
        ConfigError: a value out of range.
    """
    if not published.get("enable_twig"):
        raise CheckpointError(
            f"{where}: enable_twig is not set: the model has no region proposal network"
        )
    names = {field.name for field in fields(_Published)}
    own = {name: value for name, value in published.items() if name in names}
    try:
        found = read_dataclass(_Published, own, f"{where}: config.json")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if found.roi_source not in _SOURCES:
        raise CheckpointError(
            f"{where}: unknown roi_source {found.roi_source!r}; known: {', '.join(_SOURCES)}"
        )
    gate = None
    if layout.gated and published.get("enable_high_res"):
        # The trainer never sets a depth of the gate's own, so that it is the branch's.
        gate = GateConfig(
            "decoder", {"n_layers": found.twig_T}, _gate_threshold(published, where), "budget"
        )
    config = RPNConfig(
        branch=found.twig_K,
        n_layers=found.twig_T,
        head=layout.head,
        head_options={
            "rope": layout.rope,
            "multi_head": found.roi_multi_head,
            "source": _SOURCES[found.roi_source],
        },
        final_norm=found.roi_super_type in layout.norm_for,
        loss=found.roi_loss,
        policy="mask",
        policy_options=layout.policy_options,
        gate=gate,
    )
    if not config.is_distribution:
        return config
    return replace(config, policy_options={**layout.policy_options, **_DISTRIBUTION_POLICY})


def _gate_threshold(published: Mapping[str, Any], where: str) -> float:
    threshold = published.get("high_res_thresh", DEFAULT_THRESHOLD)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise CheckpointError(f"{where}: high_res_thresh must be a number, not {threshold!r}")
    return float(threshold)

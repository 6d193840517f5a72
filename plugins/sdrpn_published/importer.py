"""Convert a published checkpoint to an RPN."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdrpn_core.errors import CheckpointError
from sdrpn_core.rpn.checkpoint import assign_rpn_weights
from sdrpn_core.rpn.model import RPN
from sdrpn_published.base_check import check_base
from sdrpn_published.checkpoint import PublishedCheckpoint
from sdrpn_published.layouts import Layout, find_layout, published_name
from sdrpn_published.settings import rpn_config

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone


def import_rpn(checkpoint: str | Path | PublishedCheckpoint, backbone: Backbone) -> RPN:
    """Read the RPN of a published SD-RPN checkpoint.

    Both whole models and what the trainer writes (without the layers, the norm and the language
    head that training does not need) can be read: in either case, ``backbone`` gives the answers.

    Args:
        checkpoint: its folder, with ``config.json`` and safetensors.
        backbone: the stock model that it was trained on.

    Returns:
        The RPN, attached to the backbone and in its dtype.

    Raises:
        CheckpointError: missing or broken files, pickled weights, not an SD-RPN checkpoint, or one
            that was trained on a different model.
        ConfigError: a setting is out of range for the backbone.
    """
    if not isinstance(checkpoint, PublishedCheckpoint):
        checkpoint = PublishedCheckpoint(checkpoint)
    where = str(checkpoint.folder)
    layout = find_layout(checkpoint.config.get("model_type"), where)
    config = rpn_config(checkpoint.config, layout, where)
    check_base(checkpoint, layout, backbone)
    _check_depth(checkpoint, config.n_layers, layout)
    rpn = RPN.from_backbone(backbone, config)
    tensors = {
        name: checkpoint.tensor(published_name(name, config.n_layers, layout.branch_prefix))
        for name in rpn.state_dict()
    }
    assign_rpn_weights(rpn, tensors, where)
    return rpn


def _check_depth(checkpoint: PublishedCheckpoint, n_layers: int, layout: Layout) -> None:
    beyond = f"{layout.branch_prefix}twig_layers.{n_layers}."
    if any(name.startswith(beyond) for name in checkpoint.names):
        raise CheckpointError(
            f"{checkpoint.folder}: contains more branch layers than config.json says (twig_T is "
            f"{n_layers})"
        )

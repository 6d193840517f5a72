"""Check that the base model inside a published checkpoint is the given backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdrpn_core.errors import CheckpointError
from sdrpn_published.layouts import Layout, is_base

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_published.checkpoint import PublishedCheckpoint

#: Rows of each tensor that are compared: training a tensor changes all of its rows.
_ROWS = 64

#: Both sides may have been rounded to bfloat16, each with a relative error of 2^-9.
_RELATIVE = 2**-8
#: The smallest step of float16 is 2^-24.
_ABSOLUTE = 2**-24

#: Tensors with one row per token: conversions to the stock classes append rows for added tokens.
_PER_TOKEN = ("embed_tokens.weight", "lm_head.weight")


def check_base(checkpoint: PublishedCheckpoint, layout: Layout, backbone: Backbone) -> int:
    """Compare the base tensors that a checkpoint holds with the backbone's.

    Only the first rows of every tensor are read. The checkpoint may lack tensors (layers removed
    for training, a vision encoder that is loaded from elsewhere), because an RPN uses the given
    backbone. Tensors that are offloaded, or packed by quantization, cannot be compared.

    Returns:
        The number of tensors that were compared.

    Raises:
        CheckpointError: a tensor differs, or the backbone has no such tensor.
    """
    where = str(checkpoint.folder)
    if backbone.model.config.model_type != layout.base_model_type:
        raise CheckpointError(
            f"{where}: belongs to a model of type {layout.base_model_type!r}, but "
            f"{backbone.name} is of type {backbone.model.config.model_type!r}"
        )
    stock = backbone.model.state_dict()
    compared = 0
    for published in sorted(filter(is_base, checkpoint.names)):
        name = layout.stock_name(published, stock)
        if name is None:
            raise CheckpointError(f"{where}: {backbone.name} has no counterpart of {published}")
        theirs = stock[name]
        if theirs.is_meta or not theirs.is_floating_point():
            continue
        shape, found = checkpoint.shape(published), tuple(theirs.shape)
        if shape[1:] != found[1:] or not _rows_fit(published, shape, found):
            raise CheckpointError(
                f"{where}: {published} has shape {shape}, but {backbone.name} has {found}"
            )
        ours = checkpoint.tensor(published, rows=_ROWS).float()
        theirs = theirs[: len(ours)].float().cpu()
        if not torch.allclose(theirs, ours, rtol=_RELATIVE, atol=_ABSOLUTE):
            worst = (theirs - ours).abs().max().item()
            raise CheckpointError(
                f"{where}: {published} differs from that of {backbone.name} by up to {worst:.3g}: "
                "the checkpoint was trained on different weights"
            )
        compared += 1
    return compared


def _rows_fit(published: str, shape: tuple[int, ...], found: tuple[int, ...]) -> bool:
    if published.endswith(_PER_TOKEN):
        return shape[0] <= found[0]
    return shape[0] == found[0]

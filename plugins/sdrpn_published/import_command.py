"""``sdrpn import-rpn``: the import from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sdrpn_core.cli.model_options import DType, ModelPath, Revision, load_options

__all__ = ["import_rpn"]

#: The import only reads weights.
_DEVICE = "cpu"


def import_rpn(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="Folder of a published SD-RPN checkpoint."),
    ],
    model: ModelPath,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the RPN.")],
    dtype: DType = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert a published SD-RPN checkpoint to an RPN for the stock model that it was trained on.

    The RPN is saved in the checkpoint's own dtype, unless you set --dtype.
    """
    # Import torch and transformers only once the options are known to be valid.
    from sdrpn_core.backbone.loading import load_backbone
    from sdrpn_published.checkpoint import PublishedCheckpoint
    from sdrpn_published.importer import import_rpn as read_rpn

    published = PublishedCheckpoint(checkpoint)
    backbone = load_backbone(
        model, **load_options(dtype or published.dtype, _DEVICE, None, revision)
    )
    rpn = read_rpn(published, backbone)
    rpn.save_pretrained(out)
    config = rpn.config
    summary = {
        "out": str(out),
        "backbone": backbone.name,
        "branch": config.branch,
        "n_layers": config.n_layers,
        "head": config.head,
        "head_options": dict(config.head_options),
        "final_norm": config.final_norm,
        "loss": config.loss,
        "policy": config.policy,
        "policy_options": dict(config.policy_options),
        "n_parameters": sum(parameter.numel() for parameter in rpn.parameters()),
    }
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    typer.echo(
        f"{out}: RPN of {config.n_layers} layers at branch layer {config.branch} of "
        f"{backbone.name}, {summary['n_parameters']:,} parameters"
    )

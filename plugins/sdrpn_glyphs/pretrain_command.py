"""``sdrpn train-glyphs``: an embedded backbone anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_glyphs(
    out: Annotated[Path, typer.Option(help="Folder of the new backbone.")],
    family: Annotated[
        str, typer.Option(help="Which one: llava, qwen2_5_vl or deepseek_vl.")
    ] = "llava",
    seed: Annotated[int, typer.Option(help="Of the weights and the data.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="torch threads; default: all.")] = None,
) -> None:
    """Train an embedded backbone anew, within an hour on two cores; continues where it stopped."""
    import torch

    from .pretrain import train_backbone

    if threads is not None:
        torch.set_num_threads(threads)
    train_backbone(out, family, seed)
    typer.echo(str(out))

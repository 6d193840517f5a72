"""``sdrpn train-glyphs``: train an embedded backbone from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdrpn_glyphs.families import NAMES


def train_glyphs(
    out: Annotated[Path, typer.Option(help="Folder of the new backbone.")],
    family: Annotated[str, typer.Option(help=f"One of: {', '.join(NAMES)}.")] = "llava",
    seed: Annotated[int, typer.Option(help="Seed of the weights and the data.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="PyTorch threads; default: all.")
    ] = None,
    bfloat16: Annotated[
        bool,
        typer.Option(
            "--bfloat16", help="Multiply in bfloat16: faster on a CPU with instructions for it."
        ),
    ] = False,
) -> None:
    """Train an embedded backbone from scratch, in about an hour on two cores.

    Run the command again to resume an interrupted run.
    """
    import torch

    from sdrpn_glyphs.pretrain import train_backbone

    if threads is not None:
        torch.set_num_threads(threads)
    train_backbone(out, family, seed, bfloat16=bfloat16)
    typer.echo(str(out))

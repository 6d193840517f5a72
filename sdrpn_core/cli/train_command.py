"""``sdrpn train``: the train stage from the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from sdrpn_core.cli.image_limit import MaxPixels
from sdrpn_core.cli.model_options import (
    AttnImplementation,
    Device,
    DType,
    Revision,
    load_options,
)
from sdrpn_core.cli.option_values import parse_options
from sdrpn_core.util.formatting import readable_bytes

__all__ = ["train"]


def train(
    data: Annotated[
        str,
        typer.Argument(
            metavar="LABELS", help="Folder that `sdrpn label` wrote; with --lazy: records."
        ),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Backbone: local folder or hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; the RPN: OUT/rpn.")],
    lazy: Annotated[
        bool, typer.Option("--lazy", help="Label while training; records need responses.")
    ] = False,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="With --lazy: at most this many records.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.json",
            help="Label recipe, default: that of the labels; a file of `sdrpn heads` says B and R.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps; overrides --epochs.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the labels.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per forward pass; no effect on the result.")
    ] = None,
    global_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per optimizer step, over all processes.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the data order and new weights.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Any other training setting; repeatable."),
    ] = None,
    branch: Annotated[int | None, typer.Option(min=0, help="B, the branch layer.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="R, the number of RPN layers.")] = None,
    head: Annotated[str | None, typer.Option(help="Registered RPN head: qk, conv ...")] = None,
    head_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of the head; repeatable."),
    ] = None,
    loss: Annotated[str | None, typer.Option(help="bce, focal or mse.")] = None,
    feature_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Store the features there, so that the backbone runs once for all epochs.",
        ),
    ] = None,
    feature_cache_dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; default: the backbone's, which is exact."),
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            help="Require a run to resume in OUT; default: resume if there is one.",
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train an RPN for a frozen backbone; what is not given comes from the recipe or the preset.

    Of the backbone only the layers that training needs are loaded.

    `accelerate launch -m sdrpn_core train ...` shares the work and arrives at the same RPN.
    """
    chosen = {
        "max_steps": steps,
        "epochs": epochs,
        "learning_rate": lr,
        "micro_batch_size": batch_size,
        "global_batch_size": global_batch_size,
        "seed": seed,
        "max_pixels": max_pixels,
        **parse_options(setting or [], "--setting"),
    }
    shape = {"branch": branch, "n_layers": layers, "head": head, "loss": loss}
    head_options = parse_options(head_option or [], "--head-option")
    records = _records(data, n, seed) if lazy else data

    from sdrpn_core.backbone.loading import load_here, load_outline
    from sdrpn_core.backbone.recipe_option import read_recipe
    from sdrpn_core.distributed.processes import is_main_process
    from sdrpn_core.rpn.config import RPNConfig
    from sdrpn_core.training.settings import TrainingSettings
    from sdrpn_core.training.stage import layers_to_load
    from sdrpn_core.training.stage import train as run

    outline = load_outline(model, revision=revision)
    settings = TrainingSettings.for_backbone(outline, **_given(chosen))
    planned = read_recipe(recipe, outline)
    config = RPNConfig.for_backbone(
        outline, **{**planned.shape, **_given(shape)}, head_options=head_options
    )
    read = (planned.recipe or outline.preset.recipe()) if lazy else None
    options = load_options(dtype, device, attn_implementation, revision)
    backbone = load_here(model, {**options, "n_layers": layers_to_load(config, read)})
    result = run(
        backbone,
        records,
        out,
        settings,
        config,
        recipe=read_recipe(recipe, backbone).recipe,  # again: now there are weights to check
        resume=resume,
        feature_cache=feature_cache,
        feature_cache_dtype=feature_cache_dtype,
        free_backbone=True,
        progress=not as_json,
    )
    if not is_main_process():
        return
    values = {
        "rpn": str(result.folder),
        "steps": result.steps,
        "resumed_from": result.resumed_from,
        "loss": None if math.isnan(result.loss) else result.loss,
        "samples": result.samples,
        "skipped": result.skipped,
        "peak_memory_bytes": result.peak_memory,
    }
    if as_json:
        typer.echo(json.dumps(values, indent=2))
    else:
        skipped = f", {result.skipped} records skipped" if result.skipped else ""
        memory = result.peak_memory
        peak = f", peak memory {readable_bytes(memory)}" if memory is not None else ""
        typer.echo(f"{result.folder}: {result.steps} steps, loss {result.loss:.4f}{skipped}{peak}")


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _records(data: str, n: int | None, seed: int | None) -> Any:
    from sdrpn_core.data.read import read_records

    return read_records(data, n=n, seed=seed or 0)

"""``sdrpn train``: the train stage from the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdrpn_core.cli.data_options import (
    AllowUrls,
    Columns,
    ImageRoot,
    Split,
    read_options,
)
from sdrpn_core.cli.image_limit import MaxPixels
from sdrpn_core.cli.model_options import (
    AttnImplementation,
    Device,
    DType,
    ModelPath,
    Revision,
    load_options,
)
from sdrpn_core.cli.option_values import parse_options
from sdrpn_core.cli.recipe_options import RecipeOptions
from sdrpn_core.cli.target_options import Form, Temperature, Tolerance
from sdrpn_core.cli.train_objectives import (
    GATE,
    LABELS,
    check_objective,
    gate_objective,
    map_targets,
    utility_objective,
)
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.errors import ConfigError
from sdrpn_core.util.formatting import readable_bytes

if TYPE_CHECKING:
    from sdrpn_core.data.options import ReadOptions
    from sdrpn_core.training.objective import Objective
    from sdrpn_core.training.stage import TrainingResult

__all__ = ["train"]


def train(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="Output folder of `sdrpn label`, or of `sdrpn utility` for another objective; "
            "several are trained on together. With --lazy, records.",
        ),
    ],
    model: ModelPath,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run; the RPN is in OUT/rpn.")
    ],
    objective: Annotated[
        str,
        typer.Option(
            help="What is trained: a new RPN from labels (labels), the gate of a trained RPN "
            "(gate), or its map, from judged regions (utility)."
        ),
    ] = LABELS,
    rpn: Annotated[
        str | None,
        typer.Option(
            help="With another objective than labels, the trained RPN: local folder or Hub ID."
        ),
    ] = None,
    gate: Annotated[
        str | None, typer.Option(help="Gate: decoder (default), linear, mlp, or that of a plugin.")
    ] = None,
    gate_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set an option of the gate; repeatable."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="A crop helps if it is worth more than this, in nats; default: 0.7."),
    ] = None,
    indifference: Annotated[
        float | None,
        typer.Option(
            help="A crop does not help if it is worth at most this, in nats; default: 0.1."
        ),
    ] = None,
    form: Form = None,
    tolerance: Tolerance = None,
    temperature: Temperature = None,
    lazy: Annotated[
        bool,
        typer.Option("--lazy", help="Compute labels during training, from records with responses."),
    ] = False,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="With --lazy, use at most this many records.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.json",
            help="Label recipe; default: the labels'. A file of `sdrpn heads` sets B and R, too.",
        ),
    ] = None,
    recipe_option: RecipeOptions = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps; overrides --epochs.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Number of passes over the labels.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per forward pass; does not affect the result.")
    ] = None,
    global_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per optimizer step, across all processes.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the data order and of new weights.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set any other training setting; repeatable."),
    ] = None,
    branch: Annotated[int | None, typer.Option(min=0, help="B, the branch layer.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="R, the number of RPN layers.")] = None,
    head: Annotated[
        str | None, typer.Option(help="RPN head: qk, conv, or that of a plugin.")
    ] = None,
    head_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set an option of the head; repeatable."),
    ] = None,
    loss: Annotated[str | None, typer.Option(help="bce, focal or mse.")] = None,
    feature_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Cache features in this folder: the backbone runs only once for all epochs.",
        ),
    ] = None,
    feature_cache_dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16; default: the backbone's, which is lossless."
        ),
    ] = None,
    column: Columns = None,
    image_root: ImageRoot = None,
    split: Split = None,
    allow_urls: AllowUrls = False,
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=(
                "Experiment tracker beside OUT/train_log.jsonl; repeatable: tensorboard, wandb, "
                "trackio, aim, clearml, comet_ml, dvclive, mlflow, swanlab or none; default: none."
            ),
        ),
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    resume: Annotated[
        bool, typer.Option("--resume", help="Require that OUT contains a run to resume.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over: delete the training run in OUT.")
    ] = False,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train an RPN, refine one, or train its gate, for a frozen backbone. Defaults come from the
    recipe, the preset or the objective.

    Loads only the backbone layers that training needs. Run the command again to resume an
    interrupted run.

    `accelerate launch -m sdrpn_core train ...` runs on several processes, with the same result.
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
    recipe_options = parse_options(recipe_option or [], "--recipe-option")
    gate_options = parse_options(gate_option or [], "--gate-option")
    check_objective(
        objective,
        {
            "--lazy": lazy,
            "--n": n,
            "--recipe": recipe,
            "--recipe-option": recipe_option,
            "--branch": branch,
            "--layers": layers,
            "--head": head,
            "--head-option": head_option,
            "--loss": loss,
            "--rpn": rpn,
            "--gate": gate,
            "--gate-option": gate_option,
            "--margin": margin,
            "--indifference": indifference,
            "--form": form,
            "--tolerance": tolerance,
            "--temperature": temperature,
        },
    )
    how = read_options(column, image_root, split, allow_urls)
    if how.given() and not lazy:
        raise ConfigError(f"a label run has no option {how.given()[0]!r}: it is for --lazy")
    if lazy and len(data) > 1:
        raise ConfigError(
            f"--lazy takes one data set, not {len(data)}: label each of them with `sdrpn label`, "
            "and train on the folders"
        )
    records = _records(data[0], n, seed, how) if lazy else data

    from sdrpn_core.training.trackers import check_trackers

    trackers = check_trackers(tracker or ())  # before the backbone is loaded, which takes longer

    from sdrpn_core.distributed.processes import is_main_process
    from sdrpn_core.training.label_objective import LabelObjective
    from sdrpn_core.training.loading import load_for_training, load_to_continue
    from sdrpn_core.training.stage import train as run

    loading = {
        "settings": _given(chosen),
        **load_options(dtype, device, attn_implementation, revision),
    }
    goal: Objective
    if rpn is None:
        inputs = load_for_training(
            model,
            recipe=recipe,
            recipe_options=recipe_options,
            lazy=lazy,
            config={**_given(shape), "head_options": head_options},
            **loading,
        )
        backbone, settings = inputs.backbone, inputs.settings
        goal = LabelObjective(inputs.config, inputs.recipe, inputs.recipe_options)
    else:
        if objective == GATE:
            goal = gate_objective(rpn, gate, gate_options, margin, indifference)
        else:
            goal = utility_objective(rpn, map_targets(form, margin, tolerance, temperature))
        backbone, settings = load_to_continue(model, goal, **loading)
    result = run(
        backbone,
        records,
        out,
        settings,
        objective=goal,
        resume=resume,
        overwrite=overwrite,
        feature_cache=feature_cache,
        feature_cache_dtype=feature_cache_dtype,
        free_backbone=True,
        trackers=trackers,
        progress=not as_json,
    )
    if is_main_process():
        _print(result, as_json=as_json)


def _print(result: TrainingResult, *, as_json: bool) -> None:
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


def _records(data: str, n: int | None, seed: int | None, how: ReadOptions) -> Any:
    from sdrpn_core.data.read import read_records

    return read_records(data, n=n, seed=seed or 0, **vars(how))

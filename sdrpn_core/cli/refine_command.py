"""``sdrpn refine``: rounds of judging regions and training on them, from the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdrpn_core.cli.data_options import (
    DATA_HELP,
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
from sdrpn_core.cli.reference_options import ReferenceName, ReferenceTokens, make_reference
from sdrpn_core.cli.target_options import Form, Temperature, Tolerance
from sdrpn_core.cli.train_objectives import map_targets
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.training.defaults import DEFAULT_ROUNDS
from sdrpn_core.utility.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_CANDIDATES,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_SHARD_SIZE,
)

if TYPE_CHECKING:
    from sdrpn_core.training.refinement import RefinementRound

__all__ = ["refine"]


def refine(
    data: Annotated[str, typer.Argument(metavar="DATA", help=f"Questions: {DATA_HELP}")],
    model: ModelPath,
    rpn: Annotated[
        str, typer.Option(help="The trained RPN to start from: local folder or Hub ID.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the rounds.")],
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds, with those already done.")
    ] = DEFAULT_ROUNDS,
    form: Form = None,
    margin: Annotated[
        float | None,
        typer.Option(help="A region helps if it is worth more than this, in nats; default: 0.7."),
    ] = None,
    tolerance: Tolerance = None,
    temperature: Temperature = None,
    candidates: Annotated[
        int, typer.Option(min=1, help="Regions drawn from the map per record and round.")
    ] = DEFAULT_CANDIDATES,
    reference: ReferenceName = "own",
    reference_tokens: ReferenceTokens = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Use at most this many records.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed for records, drawn regions and the data order.")
    ] = 0,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Number of passes over the judged records.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set any other training setting; repeatable."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Records per pass when judging.")
    ] = DEFAULT_BATCH_SIZE,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Judged records per shard.")
    ] = DEFAULT_SHARD_SIZE,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Max new tokens per generated response.")
    ] = DEFAULT_MAX_NEW_TOKENS,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Start over: delete the runs of these rounds in OUT."),
    ] = False,
    column: Columns = None,
    image_root: ImageRoot = None,
    split: Split = None,
    allow_urls: AllowUrls = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Refine a trained RPN by what its regions bring, with the backbone frozen.

    In each round, regions are drawn from the map and judged, as by `sdrpn utility`; then the map is
    trained on them, as by `sdrpn train --objective utility`. Run the command again to resume an
    interrupted run, or with more rounds to extend one.

    `accelerate launch -m sdrpn_core refine ...` runs on several processes.
    """
    chosen = {
        "seed": seed,
        "max_pixels": max_pixels,
        **({} if lr is None else {"learning_rate": lr}),
        **({} if epochs is None else {"epochs": epochs}),
        **parse_options(setting or [], "--setting"),
    }
    targets = map_targets(form, margin, tolerance, temperature)
    judged_by = make_reference(reference, reference_tokens, max_new_tokens)

    from sdrpn_core.backbone.loading import load_for_process
    from sdrpn_core.data.read import read_records
    from sdrpn_core.distributed.processes import is_main_process
    from sdrpn_core.training.refinement import refine as run
    from sdrpn_core.training.utility_objective import UtilityObjective

    objective = UtilityObjective(rpn, targets)  # what does not fit is said before anything loads
    records = read_records(
        data, n=n, seed=seed, **vars(read_options(column, image_root, split, allow_urls))
    )
    backbone = load_for_process(model, load_options(dtype, device, attn_implementation, revision))
    done = run(
        backbone,
        records,
        rpn,
        out,
        rounds=rounds,
        targets=targets,
        settings=objective.settings(backbone, **chosen),
        n_candidates=candidates,
        seed=seed,
        judging={
            "reference": judged_by,
            "batch_size": batch_size,
            "shard_size": shard_size,
            "max_pixels": max_pixels,
        },
        overwrite=overwrite,
        progress=not as_json,
    )
    if not is_main_process():
        return
    if as_json:
        typer.echo(json.dumps({"rounds": [_plain(one) for one in done]}, indent=2))
        return
    for one in done:
        values = _plain(one)
        typer.echo(f"{values['rpn']}: {values['steps']} steps, loss {one.training.loss:.4f}")


def _plain(one: RefinementRound) -> dict[str, Any]:
    training = one.training
    return {
        "rpn": str(training.folder),
        "judged": {status.value: count for status, count in one.judged.counts.items()},
        "steps": training.steps,
        "resumed_from": training.resumed_from,
        "loss": None if math.isnan(training.loss) else training.loss,
        "samples": training.samples,
    }

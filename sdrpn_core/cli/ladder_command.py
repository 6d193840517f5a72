"""``sdrpn ladder``: answers at several budgets of visual tokens, from the command line."""

from __future__ import annotations

import json
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
from sdrpn_core.cli.option_values import parse_counts
from sdrpn_core.cli.run_summary import plain_summary, print_counts, print_skipped
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.errors import InputError
from sdrpn_core.utility.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_SHARD_SIZE,
)

if TYPE_CHECKING:
    from sdrpn_core.utility.ladder_run import LadderDataset

__all__ = ["ladder"]


def ladder(
    data: Annotated[str, typer.Argument(metavar="DATA", help=f"Questions: {DATA_HELP}")],
    model: ModelPath,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.")],
    visual_tokens: Annotated[
        str,
        typer.Option(
            metavar="N1,N2,N3,...",
            help="Budgets of visual tokens per image, ascending, 3 or more (dynamic resolution "
            "only).",
        ),
    ],
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Use at most this many records.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed for selecting or generating records.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Records per forward pass.")] = (
        DEFAULT_BATCH_SIZE
    ),
    shard_size: Annotated[int, typer.Option(min=1, help="Records per shard.")] = DEFAULT_SHARD_SIZE,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Max new tokens per answer.")
    ] = DEFAULT_MAX_NEW_TOKENS,
    column: Columns = None,
    image_root: ImageRoot = None,
    split: Split = None,
    allow_urls: AllowUrls = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over: delete the ladder run in OUT.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Answer every question at several budgets of visual tokens.

    `sdrpn train OUT --objective gate` makes labels of the answers by the published rule: where low
    budgets fail and the highest ones agree, more pixels would help. Records need answers to compare
    with. Run the command again to resume an interrupted run. To use several processes, run
    `accelerate launch -m sdrpn_core ladder ...`.
    """
    resolutions = parse_counts(visual_tokens, "--visual-tokens")
    from sdrpn_core.backbone.loading import load_for_process
    from sdrpn_core.data.read import read_records
    from sdrpn_core.distributed.processes import is_main_process
    from sdrpn_core.utility.ladder_row import LadderStatus
    from sdrpn_core.utility.ladder_run import LadderDataset
    from sdrpn_core.utility.ladder_stage import answer_ladders

    read = read_options(column, image_root, split, allow_urls)
    records = read_records(data, n=n, seed=seed, **vars(read))
    backbone = load_for_process(model, load_options(dtype, device, attn_implementation, revision))
    summary = answer_ladders(
        backbone,
        records,
        out,
        resolutions,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        shard_size=shard_size,
        max_pixels=max_pixels,
        overwrite=overwrite,
        progress=not as_json,
    )
    if not is_main_process():
        return
    found = _facts(LadderDataset(out))
    if as_json:
        typer.echo(json.dumps({**plain_summary(summary, out), **found}, indent=2))
    else:
        print_counts(summary, out)
        _print(found)
        print_skipped(summary)
    if not summary.counts[LadderStatus.OK]:
        raise InputError(f"{out}: no record could be answered: {len(summary.skipped)} skipped")


def _facts(rows: LadderDataset) -> dict[str, Any]:
    """How many questions are how difficult, and how often a budget gives the answer of the most."""
    from sdrpn_core.gate.budget_labels import Difficulty

    ladders = rows.ladders()
    difficulties = [one.difficulty for one in ladders]
    agreeing = [sum(column) for column in zip(*(one.agreement for one in ladders), strict=True)]
    return {
        "difficulties": {kind.value: difficulties.count(kind) for kind in Difficulty},
        "agreement": {
            str(budget): count / len(ladders)
            for budget, count in zip(rows.resolutions, agreeing, strict=bool(ladders))
        },
    }


def _print(found: dict[str, Any]) -> None:
    if not found["agreement"]:
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in found["difficulties"].items())
    typer.echo(f"questions: {counts}")
    for budget, share in found["agreement"].items():
        typer.echo(f"  {budget:>6} visual tokens: {share:.1%} as at the most")

"""``sdrpn heads``: find what a backbone without a preset needs, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdrpn_core.cli.image_limit import MaxPixels
from sdrpn_core.cli.image_output import check_folder
from sdrpn_core.cli.model_options import (
    AttnImplementation,
    Device,
    DType,
    ModelPath,
    Revision,
    load_options,
)
from sdrpn_core.cli.option_values import parse_options
from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from sdrpn_core.head_finding.report import HeadReport

__all__ = ["heads"]

#: Rows of the printed table; --json and the recipe file tell of all chosen heads.
_MAX_LISTED = 12


def heads(
    model: ModelPath,
    data: Annotated[
        str,
        typer.Option(
            "--data", "-d", help="Records with boxes: registered dataset, JSONL or parquet."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Recipe file (.json) for `label` and `train`.")
    ],
    n: Annotated[int | None, typer.Option("--n", min=1, help="Records; default 200.")] = None,
    seed: Annotated[int, typer.Option(help="Selects or generates the records.")] = 0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Records per forward pass; default 8.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=2, help="Max new tokens per generated response; default 64.")
    ] = None,
    max_heads: Annotated[
        int | None, typer.Option(min=1, help="At most this many grounding heads; default 8.")
    ] = None,
    recipe_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Another field of the recipe; repeatable."),
    ] = None,
    map_path: Annotated[
        Path | None,
        typer.Option("--map", help="Layer x head map (.png); default: beside the recipe."),
    ] = None,
    max_pixels: MaxPixels = None,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Find grounding heads, sinks and the branch layer of a backbone that has no preset.

    Its own answers are looked at; where the answer lies in each image must be known.
    """
    map_path = map_path or out.with_suffix(".png")
    for path, suffix in ((out, ".json"), (map_path, ".png")):
        if path.suffix != suffix:
            raise InputError(f"{path}: the name must end in {suffix}")
        check_folder(path)
    options = parse_options(recipe_option or [], "--recipe-option")

    from sdrpn_core.backbone.loading import load_backbone
    from sdrpn_core.head_finding.figure import draw_head_map
    from sdrpn_core.head_finding.finder import find_heads

    backbone = load_backbone(model, **load_options(dtype, device, attn_implementation, revision))
    sizes = {
        "n": n,
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "max_heads": max_heads,
        "max_pixels": max_pixels,
    }
    report = find_heads(
        backbone,
        data,
        seed=seed,
        recipe_options=options,
        progress=not as_json,
        **{name: value for name, value in sizes.items() if value is not None},
    )
    draw_head_map(report, map_path)
    report.save(out)
    if as_json:
        typer.echo(
            json.dumps({"out": str(out), "map": str(map_path), **report.to_dict()}, indent=2)
        )
    else:
        _print(report, out, map_path)
    if not report.better_than_chance:
        typer.echo(
            f"warning: the chosen heads point no better than chance ({report.chance:.1%}): labels "
            "made with them would be noise; use more records, or questions that the model can "
            "answer by looking at one place",
            err=True,
        )


def _print(report: HeadReport, out: Path, map_path: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Fewer lines, so that nine columns fit a terminal.
    title = f"best heads of {report.n} samples"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column in ("layer", "head", "pointing", "95%", "AUC", "mass", "peak", "sink", "role"):
        table.add_column(column, justify="right", no_wrap=True)
    for score in report.scores[:_MAX_LISTED]:
        low, high = score.interval
        table.add_row(
            str(score.layer),
            str(score.head),
            f"{score.pointing:.1%}",
            f"{low:.0%}-{high:.0%}",
            f"{score.auc:.3f}",
            f"{score.mass:.3f}",
            f"{score.peak:.3f}",
            f"{score.sink:.3f}",
            report.role(score),
        )
    console = Console()
    console.print(table)
    joint = report.joint
    low, high = joint.interval
    recipe = report.recipe
    rows = "all response rows" if recipe.response_rows is None else "the first response row"
    sinks = "none" if not recipe.sink else f"{recipe.sink} from {recipe.sink_threshold:g}"
    precision = "no cell" if joint.precision is None else f"{joint.precision:.1%} of their cells"
    together = (
        f"together, on the {joint.n} samples that did not choose: pointing {joint.pointing:.1%} "
        f"[{low:.1%}, {high:.1%}], chance {report.chance:.1%}, AUC {joint.auc:.3f}"
    )
    lines = [
        f"grounding: {recipe.grounding}, over {rows}; sinks: {sinks}",
        together,
        f"labels: {joint.usable:.1%} of the samples, {precision} in a box",
        f"branch layer B = {report.branch}, RPN layers R = {report.n_layers}",
        *(f"skipped {record.id}: {record.reason}" for record in report.skipped[:_MAX_LISTED]),
        *([f"{len(report.skipped)} records skipped in all"] if report.skipped else []),
        f"recipe: {out}",
        f"map: {map_path}",
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)

"""``sdrpn heads``: find what a backbone without a preset needs, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from sdrpn_core.cli.recipe_options import RecipeOptions
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.errors import InputError
from sdrpn_core.head_finding.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_MAX_HEADS,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_N,
)

if TYPE_CHECKING:
    from sdrpn_core.head_finding.report import HeadReport

__all__ = ["heads"]

#: Rows of the printed table; ``--json`` and the recipe file list all chosen heads.
_MAX_LISTED = 12


def heads(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help=f"Questions with boxes: {DATA_HELP}",
        ),
    ],
    model: ModelPath,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Recipe file (.json) for `label` and `train`.")
    ],
    n: Annotated[int, typer.Option("--n", min=1, help="Use at most this many records.")] = (
        DEFAULT_N
    ),
    seed: Annotated[int, typer.Option(help="Seed for selecting or generating records.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Records per forward pass.")] = (
        DEFAULT_BATCH_SIZE
    ),
    max_new_tokens: Annotated[
        int, typer.Option(min=2, help="Max new tokens per generated response.")
    ] = DEFAULT_MAX_NEW_TOKENS,
    max_heads: Annotated[int, typer.Option(min=1, help="Maximum number of grounding heads.")] = (
        DEFAULT_MAX_HEADS
    ),
    recipe_option: RecipeOptions = None,
    map_path: Annotated[
        Path | None,
        typer.Option(
            "--map", help="Figure of all layers and heads (.png); default: next to the recipe."
        ),
    ] = None,
    column: Columns = None,
    image_root: ImageRoot = None,
    split: Split = None,
    allow_urls: AllowUrls = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Find grounding heads, sinks and the branch layer of a backbone that has no preset.

    Measures attention while the backbone answers questions about images with known boxes.
    """
    map_path = map_path or out.with_suffix(".png")
    for path, suffix in ((out, ".json"), (map_path, ".png")):
        if path.suffix != suffix:
            raise InputError(f"{path}: the name must end in {suffix}")
        check_folder(path)
    options = parse_options(recipe_option or [], "--recipe-option")

    from sdrpn_core.data.read import read_records

    how = read_options(column, image_root, split, allow_urls)
    records = read_records(data, n=n, seed=seed, **vars(how))  # first: it is quick to fail

    from sdrpn_core.backbone.loading import load_backbone
    from sdrpn_core.head_finding.figure import draw_head_map
    from sdrpn_core.head_finding.finder import find_heads

    backbone = load_backbone(model, **load_options(dtype, device, attn_implementation, revision))
    report = find_heads(
        backbone,
        records,
        n=n,
        seed=seed,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        max_heads=max_heads,
        max_pixels=max_pixels,
        recipe_options=options,
        progress=not as_json,
    )
    draw_head_map(report, map_path)
    report.save(out)
    if as_json:
        typer.echo(
            json.dumps({"out": str(out), "map": str(map_path), **report.to_dict()}, indent=2)
        )
    else:
        _print(report, out, map_path)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)


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
    labels, effect = report.labels, report.question_effect
    precision = "no cell" if labels.precision is None else f"{labels.precision:.1%} of their cells"
    together = (
        f"combined, on the {joint.n} confirmation samples: pointing {joint.pointing:.1%} "
        f"[{low:.1%}, {high:.1%}], AUC {joint.auc:.3f}"
    )
    other = "n/a" if effect.pointing is None else f"{effect.pointing:.1%}"
    control = (
        f"with another record's question: pointing {other}, p = {effect.p_value:.2g} "
        f"(n = {effect.n}); random cells: {report.chance:.1%}"
    )
    lines = [
        f"grounding: {recipe.grounding}, over {rows}; sinks: {sinks}",
        together,
        control,
        f"labels: {labels.labeled:.1%} of the samples, {precision} in a box",
        f"branch layer B = {report.branch}, RPN layers R = {report.n_layers}",
        *(f"skipped {record.id}: {record.reason}" for record in report.skipped[:_MAX_LISTED]),
        *([f"{len(report.skipped)} records skipped in total"] if report.skipped else []),
        f"recipe: {out}",
        f"map: {map_path}",
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)

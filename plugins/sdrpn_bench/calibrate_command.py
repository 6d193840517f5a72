"""``sdrpn calibrate``: where to look closer, from held-out questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdrpn_bench.bench_command import progress_bar
from sdrpn_bench.defaults import DEFAULT_BATCH_SIZE, DEFAULT_MAX_LOSS
from sdrpn_bench.percent import percent
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
    NamedModelPath,
    Revision,
    load_options,
)
from sdrpn_core.cli.option_values import parse_options
from sdrpn_core.cli.policy_options import FirstLookTokens
from sdrpn_core.data.limits import MAX_PIXELS

if TYPE_CHECKING:
    from sdrpn_bench.held_out import CalibratedThreshold

__all__ = ["calibrate"]


def calibrate(
    rpn: Annotated[
        str,
        typer.Option(help="RPN with a gate: local folder; with --confidence any, or its Hub ID."),
    ],
    data: Annotated[
        str, typer.Option("--data", "-d", help=f"Held-out questions with answers: {DATA_HELP}")
    ],
    model: NamedModelPath = None,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Choose the confidence threshold of plain answers instead: it is printed, and "
            "belongs to each call.",
        ),
    ] = False,
    max_loss: Annotated[
        float,
        typer.Option(help="Accuracy that may be lost against always cropping, from 0 to 1."),
    ] = DEFAULT_MAX_LOSS,
    certain: Annotated[
        bool,
        typer.Option(
            "--certain",
            help="Hold the far end of the loss's 95% interval to --max-loss: other questions "
            "mostly keep within it, too, and fewer regions are skipped.",
        ),
    ] = False,
    first_look_tokens: FirstLookTokens = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to keep the answers in, and to resume from."),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Number of questions; default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of questions.")] = 0,
    metric: Annotated[
        str | None, typer.Option(help="Metric; default: the dataset's own, else exact_match.")
    ] = None,
    metric_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set an option of the metric; repeatable."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions per batch.")] = (
        DEFAULT_BATCH_SIZE
    ),
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum length of an answer; default: the dataset's own."),
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Choose the threshold of an RPN's gate, once, and write it into the RPN's configuration.

    Answers every question plainly and with its crop, and takes the threshold that skips the most
    regions at an accuracy of at most --max-loss below that of always cropping.
    """
    metric_options = parse_options(metric_option or [], "--metric-option")
    how = read_options(column, image_root, split, allow_urls)

    from sdrpn_bench.calibrate import calibrate_gate
    from sdrpn_bench.calibrate_cascade import calibrate_confidence
    from sdrpn_core.distributed.processes import is_main_process

    with progress_bar(as_json) as progress:
        choose = calibrate_confidence if confidence else calibrate_gate
        found = choose(
            rpn,
            data,
            model=model,
            max_loss=max_loss,
            certain=certain,
            first_look_tokens=first_look_tokens,
            out=out,
            n=n,
            seed=seed,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            max_pixels=max_pixels,
            metric=metric,
            metric_options=metric_options,
            read_options=vars(how),
            load_options=load_options(dtype, device, attn_implementation, revision),
            progress=progress,
        )
    if not is_main_process():
        return
    if as_json:
        typer.echo(json.dumps({"rpn": rpn, **found.to_dict()}, indent=2))
    else:
        _print(found, "always looks" if confidence else "always crops")
        value = str(found.threshold)  # with fewer digits it could decide otherwise
        chosen = f"{rpn}: the gate's threshold is now {value}"
        if confidence:
            chosen = f"nothing is saved: give confidence_threshold={value} to each call"
        typer.echo(chosen)


def _print(found: CalibratedThreshold, always: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    facts = found.calibration
    title = f"{facts.data}, {facts.metric}, n = {facts.n}"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("threshold", "region skipped", "accuracy", ""):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for point in found.shown:
        notes = [always] if not point.n_skipped else []
        notes += ["never crops"] if point.n_skipped == facts.n else []
        notes += ["chosen"] if point.threshold == found.threshold else []
        table.add_row(
            str(point.threshold),
            percent(point.n_skipped / facts.n),
            percent(point.accuracy),
            ", ".join(notes),
        )
    console = Console()
    console.print(table)
    low, high = (100 * limit for limit in facts.difference)
    lost = 100 * (facts.accuracy - facts.always)
    console.print(
        f"chosen minus always cropping: {lost:+.1f} points (95% paired interval {low:+.1f} to "
        f"{high:+.1f}); at most {100 * facts.max_loss:g} may be lost",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if found.left_out:
        n_asked = facts.n + len(found.left_out)
        console.print(
            f"{len(found.left_out)} of {n_asked} questions are left out, such as "
            f"{found.left_out[0]}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if not facts.skipped:
        keeps = "is certain to keep within that; more questions may show one"
        if not facts.certain:
            keeps = "keeps within that"
        console.print(f"no threshold that skips a region {keeps}", soft_wrap=True)

"""``sdrpn bench``: compare methods from the command line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdrpn_bench.defaults import DEFAULT_BATCH_SIZE, DEFAULT_MAX_NEW_TOKENS
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
    Revision,
    load_options,
)
from sdrpn_core.cli.option_values import parse_counts, parse_options
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_bench.share import Progress

__all__ = ["bench"]


def bench(
    models: Annotated[
        list[str],
        typer.Option(
            "--models",
            "-m",
            metavar="PATH[=RPN]",
            help="Backbone and its RPN: local folders or Hub IDs; repeat to compare backbones, or "
            "RPNs of one.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help=f"Questions with answers: {DATA_HELP} Several, comma-separated, give one table.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results and report.")],
    methods: Annotated[
        str | None,
        typer.Option(help="Methods, comma-separated; default: all built-in ones that apply."),
    ] = None,
    method_option: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD.KEY=VALUE", help="Set an option of a method; repeatable."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD.KEY=V1,V2,...", help="Compare values of an option; repeatable."
        ),
    ] = None,
    visual_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N1,N2,...",
            help="Run with each budget of visual tokens per image (dynamic resolution only).",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Metric; default: the dataset's own, else exact_match."),
    ] = None,
    metric_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set an option of the metric; repeatable."),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Number of items; default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the items and of random crops.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions per batch.")] = (
        DEFAULT_BATCH_SIZE
    ),
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Maximum length of an answer; default: the dataset's own, else "
            f"{DEFAULT_MAX_NEW_TOKENS}.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over: delete the benchmark run in OUT.")
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Compare methods on one or more models: accuracy, cost, and a report with figures."""
    options = _method_options(method_option or [])
    budgets = parse_counts(visual_tokens or "", "--visual-tokens")
    metric_options = parse_options(metric_option or [], "--metric-option")
    names = [name.strip() for name in methods.split(",") if name.strip()] if methods else None
    # Import torch and matplotlib only once the options are known to be valid.
    from sdrpn_bench.bench_model import BenchModel
    from sdrpn_bench.suite import run_suite
    from sdrpn_bench.sweep import parse_sweep
    from sdrpn_core.data.read import read_records
    from sdrpn_core.distributed.processes import is_main_process

    sweeps = [parse_sweep(text) for text in sweep or ()]
    how = read_options(column, image_root, split, allow_urls)
    sources = [read_records(one, n=n, seed=seed, **vars(how)) for one in _sources(data)]
    with progress_bar(as_json) as progress:
        results = run_suite(
            [BenchModel.parse(text) for text in models],
            names,
            sources,
            out=out,
            seed=seed,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            max_pixels=max_pixels,
            method_options=options,
            sweeps=sweeps,
            visual_tokens=budgets,
            metric=metric,
            metric_options=metric_options,
            load_options=load_options(dtype, device, attn_implementation, revision),
            overwrite=overwrite,
            progress=progress,
        )
    if not is_main_process():
        return
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        _print(results, out)


def _sources(data: str) -> list[str]:
    """The sources that are named: one whose name has a comma is one."""
    if Path(data).exists():
        return [data]
    return [one.strip() for one in data.split(",") if one.strip()]


def _method_options(texts: list[str]) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    for key, value in parse_options(texts, "--method-option").items():
        method, separator, name = key.partition(".")
        if not separator:
            raise ConfigError(f"--method-option {key!r}: write METHOD.KEY=VALUE")
        options.setdefault(method, {})[name] = value
    return options


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """Show one progress bar per model on stderr, for the main process's share of the items."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from sdrpn_core.distributed.processes import is_main_process

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        tasks: dict[str, Any] = {}

        def show(model: str, finished: int, total: int) -> None:
            if not is_main_process():  # known only once the run has joined the processes
                return
            if model not in tasks:
                tasks[model] = bar.add_task(model, total=total)
            bar.update(tasks[model], completed=finished)

        yield show


def _print(results: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    from sdrpn_bench.results_table import results_table
    from sdrpn_bench.suite_table import suite_tables

    console = Console()
    for one in results.get("datasets", {"": results}).values():
        console.print(results_table(one))
        for name, model in one["models"].items():
            if model["skipped"]["n"]:
                console.print(Text(f"{name}: skipped {model['skipped']['n']}, see the report"))
    if "datasets" in results:
        for table in suite_tables(results["datasets"], console.width):
            console.print(table)
    console.print(Text(f"report: {out / 'report.md'}"), soft_wrap=True)

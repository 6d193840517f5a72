"""``sdrpn quickstart``: the whole method, on this machine, in a few minutes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sdrpn_bench.percent import percent
from sdrpn_glyphs.families import NAMES

DEFAULT_OUT = Path("runs/quickstart")
DEFAULT_N = 300


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = DEFAULT_OUT,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of test questions.")] = DEFAULT_N,
    seed: Annotated[int, typer.Option(help="Seed of the test questions.")] = 0,
    family: Annotated[
        list[str] | None,
        typer.Option(help=f"Use only this family: {', '.join(NAMES)}; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Label, train, gate and compare on the models that ship with sdrpn, in minutes on two cores.

    A second run reuses the labels, RPNs and gates in the folder. `accelerate launch` splits the
    work over processes.
    """
    from sdrpn_core.distributed.processes import is_main_process
    from sdrpn_glyphs.quickstart import run_quickstart

    def log(line: str) -> None:
        typer.echo(line, err=True)

    result = run_quickstart(out, n=n, seed=seed, log=log, families=family or tuple(NAMES))
    if not is_main_process():
        return
    if as_json:
        typer.echo(json.dumps(result.results, indent=2))
        return
    _print(result.results, out)


def _print(results: dict[str, Any], out: Path) -> None:
    from rich.console import Console

    from sdrpn_bench.results_table import gain_line, results_table

    console = Console()
    console.print(results_table(results))
    console.print("Gain from RPN crops behind a gate:")
    for name, model in results["models"].items():
        console.print(gain_line(name, model, "sdrpn"), soft_wrap=True)
    console.print("Questions for which the gate skipped the region:")
    for name, model in results["models"].items():
        console.print(f"{name}: {_skipped(model['methods']['sdrpn'])}", soft_wrap=True)
    console.print(
        f"Report: {out / 'report.md'}, pictures of questions that were helped, needed no region, "
        f"or were answered wrong: {out}/*/pictures",
        soft_wrap=True,
    )


def _skipped(values: Mapping[str, Any]) -> str:
    """How many regions the gate skipped, of all and of those that were not needed."""
    gate = values.get("gate")
    if gate is None:
        return "none: no threshold above 0 kept the accuracy"
    text = f"{percent(gate['skipped']['share'])} of all"
    if "skipped_of_right" in gate:
        text += f", {percent(gate['skipped_of_right']['share'])} of those answered right without"
    return text

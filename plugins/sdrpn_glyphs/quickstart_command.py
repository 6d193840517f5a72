"""``sdrpn quickstart``: what sdrpn does, seen on this machine in a few minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_OUT = Path("runs/quickstart")
DEFAULT_N = 300


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = DEFAULT_OUT,
    n: Annotated[int, typer.Option("--n", min=1, help="Test questions.")] = DEFAULT_N,
    seed: Annotated[int, typer.Option(help="Which test questions.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead.")] = False,
) -> None:
    """Label, train and compare on the model that ships with sdrpn, about ten minutes on two cores.

    A second call reuses the labels and the RPN that are in the folder.
    """
    from .quickstart import run_quickstart

    def say(line: str) -> None:
        typer.echo(line, err=True)

    result = run_quickstart(out, n=n, seed=seed, say=say)
    if as_json:
        typer.echo(json.dumps(result.results, indent=2))
        return
    _print(result.results, out)


def _print(results: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    methods = results["methods"]
    table = Table(title=f"{results['data']}, n = {results['n']}, seed {results['seed']}")
    for column in ("method", "accuracy", "95% interval", "gain (points)", "visual tokens", "time"):
        table.add_column(column)
    for name, values in methods.items():
        low, high = values["interval"]
        difference = values.get("difference")
        gain = (
            f"{100 * difference['value']:+.1f} "
            f"[{100 * difference['interval'][0]:+.1f}, {100 * difference['interval'][1]:+.1f}]"
            if difference
            else ""
        )
        table.add_row(
            name,
            f"{100 * values['accuracy']:.1f}%",
            f"{100 * low:.1f} to {100 * high:.1f}",
            gain,
            f"{values['visual_tokens']:.0f}",
            f"{values.get('time_ratio', 1):.2f}x",
        )
    console = Console()
    console.print(table)
    before, after = methods["baseline"]["accuracy"], methods["sdrpn"]["accuracy"]
    gain = methods["sdrpn"]["difference"]
    low, high = (100 * side for side in gain["interval"])
    console.print(
        f"Looking again helped by {100 * (after - before):+.1f} points "
        f"(95% paired interval {low:+.1f} to {high:+.1f}): {before:.1%} -> {after:.1%}."
    )
    console.print(f"Report: {out / 'report.md'}, pictures: {out / 'overlays'}", soft_wrap=True)

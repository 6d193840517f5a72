"""``sdrpn compare``: two runs of the benchmark, question by question."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from sdrpn_bench.percent import percent

if TYPE_CHECKING:
    from sdrpn_bench.compare import RunComparison
    from sdrpn_bench.paired_results import PairedResults

__all__ = ["compare"]


def compare(
    run_a: Annotated[
        str, typer.Argument(help="Folder that `sdrpn bench --out` wrote: the reference.")
    ],
    run_b: Annotated[
        str, typer.Argument(help="Another one on the same data, or RUN_A again with --methods.")
    ],
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD[:METHOD_OF_B],...",
            help="Methods to compare, if their names differ in both; default: all that both have.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two benchmark runs on the questions that both answered, with paired intervals."""
    from sdrpn_bench.compare import compare_runs, parse_method_pairs

    found = compare_runs(run_a, run_b, parse_method_pairs(methods or ""))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        _print(found)


def _print(found: RunComparison) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sdrpn_bench.folded_name import FoldedName

    console = Console()
    for letter, folder in zip("AB", found.folders, strict=True):
        console.print(Text(f"{letter}: {folder}"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("method")
    for column in ("n", "A", "B", "B - A [95%]", "token-layers B/A"):
        table.add_column(column, justify="right", no_wrap=True)
    model = None
    for one in found.comparisons:
        if one.model != model:
            model = one.model
            table.add_row(Text(_name(model), style="bold", overflow="fold"))
        table.add_row(FoldedName(_name(one.method), indent=2), *map(Text, _cells(one.results)))
    console.print(table)
    console.print(
        Text(f"{found.metric}; differences in points, paired by question"), soft_wrap=True
    )
    for name, (ours, theirs) in found.settings.items():
        line = f"{name}: {json.dumps(ours)} in A, {json.dumps(theirs)} in B"
        console.print(Text(line), soft_wrap=True)


def _name(pair: tuple[str, str]) -> str:
    return pair[0] if pair[0] == pair[1] else ":".join(pair)


def _cells(results: PairedResults) -> list[str]:
    low, high = (100 * limit for limit in results.difference.interval)
    ratio = results.token_layers_ratio
    return [
        str(results.n),
        percent(results.reference),
        percent(results.accuracy),
        f"{100 * results.difference.value:+.1f} [{low:+.1f}, {high:+.1f}]",
        "" if ratio is None else f"{ratio:.2f}x",
    ]

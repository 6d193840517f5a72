"""The results as one table for a terminal: every method of every model is a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdrpn_bench.percent import percent
from sdrpn_bench.scored_items import scored_items
from sdrpn_bench.summary import REFERENCE

if TYPE_CHECKING:
    from rich.table import Table

#: With intervals at their widest, these leave 17 of 80 columns to the names: enough for the name of
#: a method, and below it ``[threshold=0.05]``.
_COLUMNS = ("accuracy [95%]", "gain [95%]", "tokens", "cost", "time")


def results_table(results: Mapping[str, Any]) -> Table:
    """Make the table; gains are percentage points above the reference.

    Args:
        results: what ``run_benchmark`` returned.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from sdrpn_bench.folded_name import FoldedName

    metric = results["metric"]["name"]
    title = f"{results['data']}, {metric}, {scored_items(results)}, seed {results['seed']}"
    table = Table(
        title=Text(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,  # columns still have a space between them
        show_edge=False,
    )
    # Long names take more lines: a number that is cut short says nothing.
    table.add_column("method")
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name, model in results["models"].items():
        table.add_row(Text(name, style="bold", overflow="fold"))
        for number, (method, values) in enumerate(model["methods"].items(), start=1):
            part = "" if values["n"] == model["n"] else f" (n = {values['n']})"
            label = FoldedName(f"{method}{part}", indent=1)
            is_last = number == len(model["methods"])
            table.add_row(label, *map(Text, _cells(values)), end_section=is_last)
    return table


def gain_line(name: str, model: Mapping[str, Any], method: str) -> str:
    """Say in one line what a method adds to a model's accuracy."""
    values = model["methods"][method]
    before, after = model["methods"][REFERENCE]["accuracy"], values["accuracy"]
    low, high = (100 * limit for limit in values["difference"]["interval"])
    return (
        f"{name}: {percent(before)} -> {percent(after)}, {100 * (after - before):+.1f} points "
        f"(95% paired interval {low:+.1f} to {high:+.1f})"
    )


def _cells(values: Mapping[str, Any]) -> list[str]:
    low, high = (100 * limit for limit in values["interval"])
    gain = ""
    if difference := values.get("difference"):
        least, most = (100 * limit for limit in difference["interval"])
        gain = f"{100 * difference['value']:+.1f} [{least:+.1f}, {most:+.1f}]"
    tokens, ratio = values["visual_tokens"], values.get("time_ratio")
    cost = values.get("cost_ratio")
    return [
        f"{percent(values['accuracy'])} [{low:.1f}, {high:.1f}]",
        gain,
        "" if tokens is None else f"{tokens:.0f}",
        "" if cost is None else f"{cost:.2f}x",
        "" if ratio is None else f"{ratio:.2f}x",
    ]

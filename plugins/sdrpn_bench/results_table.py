"""The results as one table for a terminal: every method of every model is a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdrpn_bench.summary import REFERENCE

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("accuracy", "95%", "gain", "95%", "tokens", "s", "time")


def results_table(results: Mapping[str, Any]) -> Table:
    """The table of what ``run_benchmark`` returned; gains are points above the reference."""
    from rich.table import Table
    from rich.text import Text

    title = f"{results['data']}, n = {results['n']}, seed {results['seed']}"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("model")
    table.add_column("method")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for name, model in results["models"].items():
        for number, (method, values) in enumerate(model["methods"].items()):
            last = number == len(model["methods"]) - 1
            table.add_row(
                Text(name if number == 0 else ""), method, *_cells(values), end_section=last
            )
    return table


def gain_line(name: str, model: Mapping[str, Any], method: str) -> str:
    """One sentence: what a method added to a model's accuracy."""
    values = model["methods"][method]
    before, after = model["methods"][REFERENCE]["accuracy"], values["accuracy"]
    low, high = (100 * limit for limit in values["difference"]["interval"])
    return (
        f"{name}: {before:.1%} -> {after:.1%}, {100 * (after - before):+.1f} points "
        f"(95% paired interval {low:+.1f} to {high:+.1f})"
    )


def _cells(values: Mapping[str, Any]) -> list[str]:
    low, high = values["interval"]
    cells = [f"{values['accuracy']:.1%}", f"{100 * low:.1f} to {100 * high:.1f}"]
    difference = values.get("difference")
    if difference is None:
        cells += ["", ""]
    else:
        low, high = (100 * limit for limit in difference["interval"])
        cells += [f"{100 * difference['value']:+.1f}", f"{low:+.1f} to {high:+.1f}"]
    tokens, ratio = values["visual_tokens"], values.get("time_ratio")
    return [
        *cells,
        "" if tokens is None else f"{tokens:.0f}",
        f"{values['seconds_per_question']:.3f}",
        "" if ratio is None else f"x {ratio:.2f}",
    ]

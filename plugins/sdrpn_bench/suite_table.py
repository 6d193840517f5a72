"""The results on several datasets as tables for a terminal, as wide as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sdrpn_bench.paper_table import Percentage, paper_header, paper_rows

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["suite_tables"]

_NAMES = 18
"""Columns of the terminal that names take at least, with the space behind them."""
_DATASET = len("100.0 [98.7, 100.0] ")
"""Columns of the terminal that a dataset takes."""


def suite_tables(datasets: Mapping[str, Mapping[str, Any]], width: int) -> Iterator[Table]:
    """Make the tables: accuracies by dataset with their intervals, beside the published ones.

    Args:
        datasets: what ``run_benchmark`` returned, by dataset; all of the same models.
        width: of the terminal. Datasets that find no room are in a further table.
    """
    fit = max(1, (width - _NAMES) // _DATASET)
    names = list(datasets)
    for start in range(0, len(names), fit):
        yield _table({name: datasets[name] for name in names[start : start + fit]})


def _table(datasets: Mapping[str, Mapping[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from sdrpn_bench.folded_name import FoldedName

    table = Table(
        title=Text("percent [95%], by dataset"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,  # columns still have a space between them
        show_edge=False,
    )
    table.add_column("method")
    for header in paper_header(datasets):
        table.add_column(Text(header, overflow="fold"), justify="right", min_width=_DATASET - 1)
    model = None
    for row in paper_rows(datasets):
        if row.model != model:
            model = row.model
            if table.rows:
                table.add_section()
            table.add_row(Text(model, style="bold", overflow="fold"))
        table.add_row(FoldedName(row.method, indent=1), *map(_cell, row.measured))
        if row.has_published:
            table.add_row(Text("   published"), *map(_cell, row.published))
    return table


def _cell(found: Percentage | None) -> str:
    return "" if found is None else found.with_interval

"""RESULTS.md: the ratios of every benchmark as tables, with the machine and the dates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from result_files import RESULTS, Result, Row
from suite import Script, Table

DIGITS = 3
NONE = "–"
_MEGABYTE = 1e6

_INTRODUCTION = (
    "Written by `make bench`, from `results/*.jsonl`. The cases of a benchmark run in turns on one "
    "machine, so their ratios say more about another machine than seconds do."
)
_QUICK = "Quick sizes: they show that the benchmark works, its figures mean nothing."
_NO_RESULT = "No results: it has not run yet, or its latest run failed."


def results_page(scripts: Sequence[Script], results: Mapping[str, Result]) -> str:
    """The page in Markdown.

    Args:
        scripts: in the order of the page.
        results: by the name of the script; one without a result is said to have none.
    """
    lines = ["# What sdrpn costs", "", _INTRODUCTION, ""]
    machine: Mapping[str, str] = {}
    if results:
        latest = max(results.values(), key=lambda result: result.facts.started)
        machine = latest.facts.machine
        lines += [*_table(["machine", ""], machine.items()), ""]
    for script in scripts:
        lines += [f"## {script.name}", "", script.summary, ""]
        result = results.get(script.name)
        lines += [_NO_RESULT, ""] if result is None else _section(script, result, machine)
    return "\n".join(lines)


def cell(value: Any, key: str = "") -> str:
    """A value of a row as the page shows it: floats with three significant digits.

    Args:
        value: text, number, truth value, or ``None`` where the row has none.
        key: in the row; numbers of ``..._bytes`` become megabytes.
    """
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_bytes"):
        return f"{_significant(value / _MEGABYTE)} MB"
    return _significant(value) if isinstance(value, float) else str(value)


def _section(script: Script, result: Result, machine: Mapping[str, str]) -> list[str]:
    facts = result.facts
    date, _, _ = facts.started.partition("T")
    lines = [f"`{script.path.name}`, {date}, {facts.seconds:.0f} s.", ""]
    other = {name: value for name, value in facts.machine.items() if machine.get(name) != value}
    if other:
        differing = ", ".join(f"{name} {value}" for name, value in other.items())
        lines += [f"Not on the machine above: {differing}.", ""]
    if facts.quick:
        lines += [_QUICK, ""]
    for table in script.tables:
        rows = [row for row in result.rows if row["benchmark"] == table.benchmark]
        lines += [table.title, ""] if table.title else []
        lines += [*_table(list(table.columns.values()), _cells(table, rows)), ""]
    if script.plot:
        lines += [f"![{script.name}]({RESULTS}/{script.plot})", ""]
    return lines


def _cells(table: Table, rows: Sequence[Row]) -> Iterable[list[str]]:
    for row in rows:
        yield [cell(row.get(key), key) for key in table.columns]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _significant(value: float) -> str:
    """Three significant digits, without an exponent, zeros at the end kept."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = DIGITS - 1 - math.floor(math.log10(abs(float(f"{value:.{DIGITS - 1}e}"))))
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"

"""The table of papers: models and methods by datasets, beside the published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdrpn_bench.markdown import table
from sdrpn_bench.percent import percent

__all__ = ["paper_table"]

_NONE = "–"


def paper_table(datasets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tabulate results as Markdown lines, in percent.

    Below the row of a method stands what was published for the model, if anything was.

    Args:
        datasets: what ``run_benchmark`` returned, by dataset; all of the same models.
    """
    rows = []
    for name in next(iter(datasets.values()))["models"]:
        methods = dict.fromkeys(
            method for results in datasets.values() for method in results["models"][name]["methods"]
        )
        for method in methods:
            measured = [_measured(results, name, method) for results in datasets.values()]
            rows.append([name, method, *map(_percent, measured)])
            published = [_published(results, name, method) for results in datasets.values()]
            if any(value is not None for value in published):
                rows.append(["", f"{method}, published", *map(_percent, published)])
    header = [f"{name} ({_unit(results)})" for name, results in datasets.items()]
    return table(["model", "method", *header], rows)


def _unit(results: Mapping[str, Any]) -> str:
    return str(results["total"] or results["metric"]["name"])


def _measured(results: Mapping[str, Any], model: str, method: str) -> float | None:
    values = results["models"][model]["methods"].get(method)
    if values is None:
        return None
    total = values["totals"].get(results["total"])
    return 100 * float(values["accuracy"] if total is None else total["value"])


def _published(results: Mapping[str, Any], model: str, method: str) -> float | None:
    known = results["published"].get(results["models"][model].get("preset"), {})
    score: float | None = known.get("scores", {}).get(method)
    return score


def _percent(value: float | None) -> str:
    return _NONE if value is None else percent(value / 100).removesuffix("%")

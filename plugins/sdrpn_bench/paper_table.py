"""The table of papers: models and methods by datasets, beside the published numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdrpn_bench.markdown import table
from sdrpn_bench.percent import percent
from sdrpn_bench.report_cells import NONE

__all__ = ["PaperRow", "Percentage", "paper_header", "paper_rows", "paper_table"]


@dataclass(frozen=True)
class Percentage:
    """What a method reaches on a dataset, in percent.

    Attributes:
        value: the accuracy, or the total that the dataset is judged by.
        interval: of the value; ``None`` for a published one.
    """

    value: float
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        """The value without its interval."""
        return _percent(self.value)

    @property
    def with_interval(self) -> str:
        """The value, and its interval if it has one."""
        if self.interval is None:
            return str(self)
        return f"{self} [{', '.join(map(_percent, self.interval))}]"


@dataclass(frozen=True)
class PaperRow:
    """A method of a model.

    Attributes:
        model: its label.
        method: its name.
        measured: per dataset; ``None`` where the method did not run.
        published: the same; ``None`` where nothing was published.
    """

    model: str
    method: str
    measured: Sequence[Percentage | None]
    published: Sequence[Percentage | None]

    @property
    def has_published(self) -> bool:
        """Whether anything was published for the model and the method."""
        return any(value is not None for value in self.published)


def paper_rows(datasets: Mapping[str, Mapping[str, Any]]) -> Iterator[PaperRow]:
    """The rows of the table, model by model.

    Args:
        datasets: what ``run_benchmark`` returned, by dataset; all of the same models.
    """
    for name in next(iter(datasets.values()))["models"]:
        methods = dict.fromkeys(
            method for results in datasets.values() for method in results["models"][name]["methods"]
        )
        for method in methods:
            yield PaperRow(
                name,
                method,
                [_measured(results, name, method) for results in datasets.values()],
                [_published(results, name, method) for results in datasets.values()],
            )


def paper_header(datasets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Per dataset its name, and what is measured on it."""
    return [
        f"{name} ({results['total'] or results['metric']['name']})"
        for name, results in datasets.items()
    ]


def paper_table(datasets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tabulate results as Markdown lines, in percent.

    Below the row of a method stands what was published for the model, if anything was.

    Args:
        datasets: what ``run_benchmark`` returned, by dataset; all of the same models.
    """
    rows = []
    for row in paper_rows(datasets):
        rows.append([row.model, row.method, *map(_cell, row.measured)])
        if row.has_published:
            rows.append(["", f"{row.method}, published", *map(_cell, row.published)])
    return table(["model", "method", *paper_header(datasets)], rows)


def _measured(results: Mapping[str, Any], model: str, method: str) -> Percentage | None:
    values = results["models"][model]["methods"].get(method)
    if values is None:
        return None
    total = values["totals"].get(results["total"])
    value = values["accuracy"] if total is None else total["value"]
    low, high = (values if total is None else total)["interval"]
    return Percentage(100 * value, (100 * low, 100 * high))


def _published(results: Mapping[str, Any], model: str, method: str) -> Percentage | None:
    known = results["published"].get(results["models"][model].get("preset"), {})
    score: float | None = known.get("scores", {}).get(method)
    return None if score is None else Percentage(score)


def _cell(found: Percentage | None) -> str:
    return NONE if found is None else str(found)


def _percent(value: float) -> str:
    return percent(value / 100).removesuffix("%")

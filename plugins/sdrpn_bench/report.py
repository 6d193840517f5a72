"""``report.md``: the results as tables, with notes on how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdrpn_bench.curve_report import curve_tables
from sdrpn_bench.markdown import table
from sdrpn_bench.model_report import model_lines
from sdrpn_bench.percent import percent
from sdrpn_bench.report_cells import NONE, points
from sdrpn_bench.report_notes import notes
from sdrpn_core.util.atomic_files import atomic_write

REPORT_NAME = "report.md"


def write_report(folder: Path, results: Mapping[str, Any], figures: Sequence[Path]) -> Path:
    """Write the report of :func:`render_report` next to the results."""
    path = folder / REPORT_NAME
    with atomic_write(path) as file:
        file.write(render_report(results, [figure.relative_to(folder) for figure in figures]))
    return path


def render_report(results: Mapping[str, Any], figures: Sequence[Path] = ()) -> bytes:
    """Render the report as Markdown, in UTF-8.

    Args:
        results: what ``run_benchmark`` returned.
        figures: paths of the figures, relative to the report.
    """
    lines = [
        "# Benchmark",
        "",
        f"Data: {results['data']}, {results['n']} items, seed {results['seed']}.",
        f"Metric: {_metric(results['metric'])}; the accuracy is its mean.",
    ]
    if len(results["models"]) > 1:
        lines += ["", "## All models", "", *_all_models(results["models"])]
        lines += ["", *_model_differences(results["model_differences"])]
    for name, model in results["models"].items():
        lines += ["", f"## {name}", "", *model_lines(model)]
    lines += ["", "## Accuracy against cost", *_curve_lines(results["curves"])]
    if figures:
        lines += ["", "## Figures", ""]
        lines += [f"![{path.stem.replace('_', ' ')}]({path.as_posix()})" for path in figures]
    lines += ["", "## How to read this", "", *notes(results)]
    lines += ["", "## Environment", "", *_environment(results), ""]
    return "\n".join(lines).encode()


def _all_models(models: Mapping[str, Any]) -> list[str]:
    """Tabulate methods by models: accuracy, and the gain over the reference with its interval."""
    methods = dict.fromkeys(method for model in models.values() for method in model["methods"])
    rows = []
    for method in methods:
        cells = []
        for model in models.values():
            values = model["methods"].get(method)
            if values is None:
                cells.append(NONE)
                continue
            gain = values.get("difference")
            cells.append(
                percent(values["accuracy"]) + (f", {points(gain)}" if gain is not None else "")
            )
        rows.append([method, *cells])
    return table(["method", *models], rows)


def _model_differences(differences: Mapping[str, Any]) -> list[str]:
    """Tabulate how each model differs from the first, with the number of questions."""
    first, others = differences["reference"], differences["models"]
    methods = dict.fromkeys(method for model in others.values() for method in model)
    rows = []
    for method in methods:
        found = [model.get(method) for model in others.values()]
        rows.append([method, *(NONE if one is None else _paired(one) for one in found)])
    return [
        f"Paired differences between models on the same questions, from `{first}` (95%):",
        "",
        *table(["method", *(f"{name} minus {first}" for name in others)], rows),
    ]


def _paired(found: Mapping[str, Any]) -> str:
    return f"{points(found['difference'])}, n = {found['n']}"


def _curve_lines(curves: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, curve in curves.items():
        lines += ["", f"### {name}"]
        for header, rows in curve_tables(curve):
            lines += ["", *table(header, rows)]
    return lines


def _metric(metric: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key} = {value}" for key, value in metric["options"].items())
    return f"`{metric['name']}`" + (f" ({options})" if options else "")


def _environment(results: Mapping[str, Any]) -> list[str]:
    facts = {
        **results["environment"],
        "processes": str(results["processes"]),
        "batch size": str(results["batch_size"]),
        "max new tokens": str(results["max_new_tokens"]),
        "data fingerprint": results["data_fingerprint"],
    }
    return [f"- {name}: {value}" for name, value in facts.items()]

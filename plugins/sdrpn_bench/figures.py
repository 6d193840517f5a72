"""The figures of a run, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sdrpn_bench.curve_figure import draw_curves
from sdrpn_bench.figure_style import Style, add_legend, method_styles
from sdrpn_bench.item_store import Row
from sdrpn_bench.percent import percent
from sdrpn_bench.size_figure import draw_by_size, size_bins
from sdrpn_bench.summary import REFERENCE
from sdrpn_core.util.atomic_files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Draw = Callable[[Axes, Mapping[str, Any], Sequence[Row], Mapping[str, Style]], None]

FOLDER_NAME = "figures"
_DPI = 130
_PANEL = (5.2, 3.6)
"""Size of one model's panel, in inches."""
_ROOM = 55
"""Letters of the names of methods that fit below a panel side by side."""


def write_figures(folder: Path, results: Mapping[str, Any], rows: Sequence[Row]) -> list[Path]:
    """Draw the figures that the results allow.

    Args:
        folder: the run's folder; the figures go to ``figures/`` inside it.
        results: what ``run_benchmark`` returns.
        rows: the item results of all models.

    Returns:
        The files, see :func:`run_figures`.
    """
    (folder / FOLDER_NAME).mkdir(exist_ok=True)
    figures = run_figures(results, rows)
    return [_save(folder, name, figure) for name, figure in figures.items()]


def run_figures(results: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Figure]:
    """The figures that the results allow, by name.

    Args:
        results: what ``run_benchmark`` returns.
        rows: the item results of all models.

    Returns:
        Accuracy; accuracy by object size where boxes are known, and enough for several bins; gain
        against time where there is a baseline; accuracy against cost with its Pareto front.
    """
    models = results["models"]
    own = {
        name: [row for row in rows if row["model"] == name and "methods" in row] for name in models
    }
    styles = method_styles(results["method_options"])
    found = {"accuracy": _panels(models, _draw_accuracy, own, styles)}
    # A single bin would say what the accuracy does.
    if any(len(size_bins(some)) > 1 for some in own.values()):
        found["accuracy_by_object_size"] = _panels(models, draw_by_size, own, styles)
        add_legend(found["accuracy_by_object_size"], styles)
    if any("time_ratio" in v for model in models.values() for v in model["methods"].values()):
        found["gain_and_cost"] = _panels(models, _draw_gain, own, styles)
        add_legend(found["gain_and_cost"], styles)
    found["accuracy_and_cost"] = draw_curves(results["curves"], styles)
    return found


def _panels(
    models: Mapping[str, Any],
    draw: Draw,
    rows: Mapping[str, Sequence[Row]],
    styles: Mapping[str, Style],
) -> Figure:
    figure = Figure(figsize=(_PANEL[0] * len(models), _PANEL[1]), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, model) in enumerate(models.items(), 1):
        axes = figure.add_subplot(1, len(models), number)
        draw(axes, model["methods"], rows[name], styles)
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_accuracy(
    axes: Axes, methods: Mapping[str, Any], rows: Sequence[Row], styles: Mapping[str, Style]
) -> None:
    names = list(methods)
    values = [methods[name]["accuracy"] for name in names]
    limits = np.array([methods[name]["interval"] for name in names])
    errors = np.maximum(np.abs(limits.T - values), 0)
    bars = axes.bar(names, values, color=[styles[name].color for name in names], width=0.65)
    axes.errorbar(names, values, yerr=errors, fmt="none", ecolor="black", capsize=3, lw=1)
    for bar, value, high in zip(bars, values, limits[:, 1], strict=True):
        middle = bar.get_x() + bar.get_width() / 2
        axes.annotate(percent(value), (middle, high), (0, 3), textcoords="offset points",
                      ha="center", fontsize=8)  # fmt: skip
    if sum(map(len, names)) > _ROOM:
        for label in axes.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")
    axes.set_ylim(0, 1.08)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_ylabel(f"accuracy, 95% interval (n = {len(rows)})")


def _draw_gain(
    axes: Axes, methods: Mapping[str, Any], rows: Sequence[Row], styles: Mapping[str, Style]
) -> None:
    axes.axhline(0, color="black", lw=0.8)
    reference = styles[REFERENCE]
    axes.plot([1], [0], reference.marker, color=reference.color, ms=6, label=REFERENCE)
    for name, values in methods.items():
        difference = values.get("difference")
        if difference is None:
            continue
        cost, gain = values["time_ratio"], 100 * difference["value"]
        low, high = (100 * limit for limit in difference["interval"])
        axes.errorbar([cost], [gain], yerr=[[gain - low], [high - gain]], fmt=styles[name].marker,
                      color=styles[name].color, ms=6, capsize=3, lw=1.2, label=name)  # fmt: skip
    axes.margins(x=0.2)
    axes.set_xlabel(f"wall time per question / {REFERENCE}")
    axes.set_ylabel(f"points above {REFERENCE}, 95% interval")


def _save(folder: Path, name: str, figure: Figure) -> Path:
    path = folder / FOLDER_NAME / f"{name}.png"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
    return path

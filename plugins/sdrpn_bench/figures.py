"""The figures of a run, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sdrpn_bench.curve_figure import draw_curves
from sdrpn_bench.intervals import mean_interval
from sdrpn_bench.item_store import Row
from sdrpn_bench.percent import percent
from sdrpn_bench.summary import REFERENCE
from sdrpn_core.util.atomic_files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER_NAME = "figures"
_DPI = 130
_PANEL = (5.2, 3.6)
"""Size of one model's panel, in inches."""
_MAX_BINS = 5
_MIN_BIN_ITEMS = 20
"""With fewer items per bin, a bin says nothing."""
_COLORS = ("#6b7280", "#0f766e", "#c2710c", "#9f7aea", "#1d4ed8", "#b91c1c", "#4d7c0f", "#be185d")


def write_figures(folder: Path, results: Mapping[str, Any], rows: Sequence[Row]) -> list[Path]:
    """Draw the figures that the results allow.

    Args:
        folder: the run's folder; the figures go to ``figures/`` inside it.
        results: what ``run_benchmark`` returns.
        rows: the item results of all models.

    Returns:
        The files: accuracy; accuracy by object size where boxes are known; gain against time where
        there is a baseline; accuracy against cost with its Pareto front.
    """
    (folder / FOLDER_NAME).mkdir(exist_ok=True)
    models = results["models"]
    written = [_save(folder, "accuracy", _panels(models, _draw_accuracy, rows))]
    if any(row.get("object_size") is not None for row in rows):
        figure = _panels(models, _draw_by_size, rows)
        written.append(_save(folder, "accuracy_by_object_size", figure))
    if any("time_ratio" in v for model in models.values() for v in model["methods"].values()):
        written.append(_save(folder, "gain_and_cost", _panels(models, _draw_gain, rows)))
    written.append(_save(folder, "accuracy_and_cost", draw_curves(results["curves"])))
    return written


def _panels(models: Mapping[str, Any], draw: Any, rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(_PANEL[0] * len(models), _PANEL[1]), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, model) in enumerate(models.items(), 1):
        axes = figure.add_subplot(1, len(models), number)
        own = [row for row in rows if row["model"] == name and "methods" in row]
        draw(axes, model["methods"], own)
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_accuracy(axes: Axes, methods: Mapping[str, Any], rows: Sequence[Row]) -> None:
    names = list(methods)
    values = [methods[name]["accuracy"] for name in names]
    limits = np.array([methods[name]["interval"] for name in names])
    errors = np.maximum(np.abs(limits.T - values), 0)
    bars = axes.bar(names, values, color=_colors(names), width=0.65)
    axes.errorbar(names, values, yerr=errors, fmt="none", ecolor="black", capsize=3, lw=1)
    for bar, value, high in zip(bars, values, limits[:, 1], strict=True):
        middle = bar.get_x() + bar.get_width() / 2
        axes.annotate(percent(value), (middle, high), (0, 3), textcoords="offset points",
                      ha="center", fontsize=8)  # fmt: skip
    axes.set_ylim(0, 1.08)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_ylabel(f"accuracy, 95% interval (n = {len(rows)})")


def _draw_by_size(axes: Axes, methods: Mapping[str, Any], rows: Sequence[Row]) -> None:
    known = [row for row in rows if row["object_size"] is not None]
    sizes = np.array([row["object_size"] for row in known])
    n_bins = int(np.clip(len(known) // _MIN_BIN_ITEMS, 1, _MAX_BINS))
    order = np.argsort(sizes, kind="stable")
    bins = [part for part in np.array_split(order, n_bins) if len(part)]
    middles = [100 * float(np.median(sizes[part])) for part in bins]
    names = list(methods)
    for name, color in zip(names, _colors(names), strict=True):
        scores = [[known[i]["methods"][name]["score"] for i in part] for part in bins]
        values = [sum(part) / len(part) for part in scores]
        limits = np.array([mean_interval(part) for part in scores])
        axes.plot(middles, values, "o-", color=color, label=name, ms=4, lw=1.5)
        axes.fill_between(middles, limits[:, 0], limits[:, 1], color=color, alpha=0.12, lw=0)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("object size, % of the image's side (median of bin)")
    axes.set_ylabel("accuracy, 95% interval")
    axes.legend(fontsize=8, frameon=False)


def _draw_gain(axes: Axes, methods: Mapping[str, Any], rows: Sequence[Row]) -> None:
    names = list(methods)
    axes.axhline(0, color="black", lw=0.8)
    axes.plot([1], [0], "o", color=_COLORS[0], ms=6)
    axes.annotate(REFERENCE, (1, 0), (6, 5), textcoords="offset points", fontsize=8)
    for name, color in zip(names, _colors(names), strict=True):
        difference = methods[name].get("difference")
        if difference is None:
            continue
        cost, gain = methods[name]["time_ratio"], 100 * difference["value"]
        low, high = (100 * limit for limit in difference["interval"])
        axes.errorbar([cost], [gain], yerr=[[gain - low], [high - gain]], fmt="o", color=color,
                      ms=6, capsize=3, lw=1.2)  # fmt: skip
        axes.annotate(name, (cost, gain), (6, 5), textcoords="offset points", fontsize=8)
    axes.margins(x=0.2)
    axes.set_xlabel(f"wall time per question / {REFERENCE}")
    axes.set_ylabel(f"points above {REFERENCE}, 95% interval")


def _colors(names: Sequence[str]) -> list[str]:
    return [_COLORS[i % len(_COLORS)] for i in range(len(names))]


def _save(folder: Path, name: str, figure: Figure) -> Path:
    path = folder / FOLDER_NAME / f"{name}.png"
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
    return path

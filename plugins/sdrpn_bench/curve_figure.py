"""The figure of accuracy against cost: one panel per model, its Pareto front as steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sdrpn_bench.figure_style import Style, add_legend

_PANEL = (5.6, 4.4)
"""Size of one model's panel, in inches."""


def draw_curves(curves: Mapping[str, Any], styles: Mapping[str, Style]) -> Figure:
    """Draw the points of all methods.

    Args:
        curves: as :func:`~sdrpn_bench.curve.curves` returns them.
        styles: of the run's methods.
    """
    figure = Figure(figsize=(_PANEL[0] * len(curves), _PANEL[1]), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        _draw(axes, curve["points"], styles)
        axes.set_title(name, fontsize=10)
    add_legend(figure, styles)
    return figure


def _draw(axes: Axes, points: Sequence[Mapping[str, Any]], styles: Mapping[str, Style]) -> None:
    front = [point for point in points if point["on_front"]]
    costs = [point["cost"] for point in front]
    if front:
        axes.step(
            [*costs, max(point["cost"] for point in points)],
            [*(point["accuracy"] for point in front), front[-1]["accuracy"]],
            where="post",
            color="black",
            lw=0.9,
            label="Pareto front",
            zorder=1,
        )
    for method, style in styles.items():
        own = [point for point in points if point["method"] == method]
        if not own:
            continue
        values = [point["accuracy"] for point in own]
        lows = [max(0.0, p["accuracy"] - p["interval"][0]) for p in own]
        highs = [max(0.0, p["interval"][1] - p["accuracy"]) for p in own]
        axes.errorbar(
            [point["cost"] for point in own],
            values,
            yerr=[lows, highs],
            fmt=style.marker + (":" if len(own) > 1 else ""),
            color=style.color,
            ms=6,
            lw=0.8,
            capsize=2,
            elinewidth=0.6,
            label=method,
            zorder=2,
        )
    axes.set_xscale("log")
    axes.set_ylim(0, 1.04)
    axes.set_xlabel("token-layers per question (log)")
    axes.set_ylabel("accuracy, 95% interval")
    axes.spines[["top", "right"]].set_visible(False)

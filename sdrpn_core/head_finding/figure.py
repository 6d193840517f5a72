"""The layer x head map of a report, as a PNG file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sdrpn_core.util.atomic_files import atomic_write, remove_leftovers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sdrpn_core.head_finding.measures import Scores
    from sdrpn_core.head_finding.report import HeadReport
    from sdrpn_core.labels.recipe import Heads

_DPI = 130
_COLORMAP = "inferno"
_GROUNDING_COLOR, _SINK_COLOR = "#22d3ee", "#4ade80"
_CELL = 0.24
"""Inches of one head."""
_MIN_PANEL, _MAX_PANEL = 2.6, 8.0
_MARGIN = (1.5, 1.6)
"""Inches around a panel: ticks, color bar, title."""
_MAX_TICKS = 12
_INSET = 0.06
"""How far inside its cell a mark is drawn, so that neighbors do not hide it."""
_TITLE_PAD = 16
"""Points between a panel and its title, for the mark of B."""


def draw_head_map(report: HeadReport, path: str | Path) -> None:
    """Draw pointing and sink scores of every head, with the chosen heads and B marked.

    Args:
        report: what to draw.
        path: of the PNG file, which is written atomically.

    Raises:
        SdrpnError: it cannot be written.
    """
    layers, heads = report.table.pointing.shape
    width, height = (float(np.clip(_CELL * n, _MIN_PANEL, _MAX_PANEL)) for n in (layers, heads))
    size = (2 * (width + _MARGIN[0]), height + _MARGIN[1])
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.backbone['name']}, {report.n} samples", fontsize=10)
    left, right = figure.subplots(1, 2)
    low, high = report.joint.interval
    _draw(left, report.table.pointing, "highest cell in a box")
    _mark(left, report.recipe.grounding, _GROUNDING_COLOR)
    other = report.question_effect.pointing
    control = "" if other is None else f", other questions {other:.0%}"
    left.set_title(
        f"pointing; chosen: {report.joint.pointing:.0%} [{low:.0%}, {high:.0%}]{control}",
        fontsize=9,
        pad=_TITLE_PAD,
    )
    _draw(right, report.table.sink, "highest mean share of one cell")
    _mark(right, report.recipe.sink, _SINK_COLOR)
    right.set_title(
        "sinks" if report.recipe.sink else "sinks; chosen: none", fontsize=9, pad=_TITLE_PAD
    )
    for axes in (left, right):
        # B lies between two layers: the hidden states that leave layer B - 1.
        axes.axvline(report.branch - 0.5, color="white", lw=1.2, ls="--")
        axes.annotate(
            f"B = {report.branch}",
            (report.branch - 0.5, 1),
            (0, 3),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    path = Path(path)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
    remove_leftovers(path)


def _draw(axes: Axes, values: Scores, label: str) -> None:
    image = axes.imshow(values.T, cmap=_COLORMAP, aspect="auto", vmin=0, interpolation="nearest")
    colors = axes.figure.colorbar(image, ax=axes, pad=0.03)
    colors.set_label(label, fontsize=8)
    colors.ax.tick_params(labelsize=7)
    layers, heads = values.shape
    axes.set_xticks(_ticks(layers))
    axes.set_yticks(_ticks(heads))
    axes.tick_params(labelsize=7)
    axes.set_xlabel("layer", fontsize=8)
    axes.set_ylabel("head", fontsize=8)


def _mark(axes: Axes, chosen: Mapping[int, Heads], color: str) -> None:
    for layer, heads in chosen.items():
        for head in heads:
            corner = (layer - 0.5 + _INSET, int(head) - 0.5 + _INSET)
            side = 1 - 2 * _INSET
            axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=color, lw=2))


def _ticks(n: int) -> list[int]:
    return list(range(0, n, -(-n // _MAX_TICKS)))

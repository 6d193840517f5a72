"""The panel of accuracy by object size: one point per method and bin of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sdrpn_bench.intervals import mean_interval
from sdrpn_bench.item_store import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sdrpn_bench.figure_style import Style

__all__ = ["draw_by_size", "size_bins"]

_MAX_BINS = 5
_MIN_BIN_ITEMS = 20
"""With fewer items per bin, a bin says nothing."""
_SPREAD = 0.3
"""Of the distance between two bins, what the methods of one are spread over."""


def size_bins(rows: Sequence[Row]) -> list[tuple[float, list[Row]]]:
    """Questions with known boxes in bins of equal number, by the size of the object.

    Args:
        rows: item results of one model.

    Returns:
        Per bin the median size, in percent of the image's side, and its rows; bins of the same
        median are one.
    """
    known = [row for row in rows if row.get("object_size") is not None]
    known.sort(key=lambda row: row["object_size"])
    n_bins = int(np.clip(len(known) // _MIN_BIN_ITEMS, 1, _MAX_BINS))
    bins: dict[float, list[Row]] = {}
    for part in np.array_split(np.arange(len(known)), n_bins):
        own = [known[place] for place in part]
        if own:
            middle = 100 * float(np.median([row["object_size"] for row in own]))
            bins.setdefault(middle, []).extend(own)
    return list(bins.items())


def draw_by_size(
    axes: Axes, methods: Mapping[str, Any], rows: Sequence[Row], styles: Mapping[str, Style]
) -> None:
    """Draw the accuracies with their intervals, side by side, so that none hides another.

    Args:
        axes: the panel.
        methods: by name, as in the results.
        rows: item results of the model.
        styles: of the methods.
    """
    bins = size_bins(rows)
    if not bins:  # of a model whose items with boxes were all skipped
        return
    middles = np.array([middle for middle, _ in bins])
    gap = float(np.diff(middles).min()) if len(bins) > 1 else 1.0
    offsets = np.linspace(-0.5, 0.5, len(methods)) if len(methods) > 1 else np.zeros(1)
    for name, offset in zip(methods, offsets * _SPREAD * gap, strict=True):
        scores = [[row["methods"][name]["score"] for row in own] for _, own in bins]
        values = np.array([sum(some) / len(some) for some in scores])
        limits = np.array([mean_interval(some) for some in scores])
        axes.errorbar(
            middles + offset,
            values,
            yerr=np.maximum(np.abs(limits.T - values), 0),
            fmt=f"{styles[name].marker}-",
            color=styles[name].color,
            label=name,
            ms=4,
            lw=1.2,
            capsize=2,
            elinewidth=0.8,
        )
    axes.set_ylim(0, 1.04)
    axes.set_xlabel("object size, % of the image's side (median of bin)")
    axes.set_ylabel("accuracy, 95% interval")

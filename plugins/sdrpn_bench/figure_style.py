"""How methods look, the same in every figure of a report, and the legend that says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from sdrpn_bench.sweep import base_of

__all__ = ["Style", "add_legend", "method_styles"]

_COLORS = (
    "#6b7280", "#0f766e", "#c2710c", "#9f7aea", "#1d4ed8", "#b91c1c", "#4d7c0f", "#be185d",
    "#0e7490", "#78350f", "#4338ca", "#111827",
)  # fmt: skip
_MARKERS = "osD^vPX*<>hd"
_FONT_SIZE = 8
_LETTERS_PER_INCH = 15
"""Of the legend's font, about."""
_HANDLE = 7
"""Letters that the sign of an entry takes, with the space around it."""
_LINE = 0.18
"""Height of a line of the legend, in inches."""


@dataclass(frozen=True)
class Style:
    """How a method is drawn.

    Attributes:
        color: that of all variants of a method.
        marker: its own.
    """

    color: str
    marker: str


def method_styles(methods: Iterable[str]) -> dict[str, Style]:
    """The styles of the methods of a run, by name.

    Args:
        methods: all methods of the run in its order, which decides; variants of a sweep have
            the color of their method.
    """
    names = list(methods)
    bases = list(dict.fromkeys(map(base_of, names)))
    return {
        name: Style(
            _COLORS[bases.index(base_of(name)) % len(_COLORS)], _MARKERS[place % len(_MARKERS)]
        )
        for place, name in enumerate(names)
    }


def add_legend(figure: Figure, styles: Mapping[str, Style]) -> None:
    """Explain below the panels what all of them show, in more rows where names are long.

    Args:
        figure: with its panels drawn; it becomes higher.
        styles: by name, in the order of the legend; what has none comes first.
    """
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    order = {name: place for place, name in enumerate(styles)}
    labels = sorted(handles, key=lambda label: order.get(label, -1))
    width, height = figure.get_size_inches()
    fit = int(width * _LETTERS_PER_INCH) // (max(map(len, labels)) + _HANDLE)
    columns = min(max(1, fit), len(labels))
    figure.set_size_inches(width, height + _LINE * -(-len(labels) // columns))
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize=_FONT_SIZE,
        frameon=False,
    )

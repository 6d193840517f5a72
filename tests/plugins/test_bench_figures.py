"""The figures of a report: legible, and a method looks the same in all of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from matplotlib.colors import to_hex

from sdrpn_bench.cost import Cost
from sdrpn_bench.curve import curves
from sdrpn_bench.figures import run_figures, write_figures
from sdrpn_bench.metrics.exact_match import ExactMatch
from sdrpn_bench.summary import summarize

N = 60
#: In another order than by cost, in which the points of a curve are.
COSTS = {
    "baseline": 10,
    "sdrpn": 40,
    "sdrpn[threshold=0.05]": 45,
    "sdrpn[threshold=0.1]": 42,
    "attention": 20,
    "full": 5,
}
FIGURES = ["accuracy", "accuracy_by_object_size", "gain_and_cost", "accuracy_and_cost"]


def run(sizes, models=("llava",)):
    """Results and rows of items with objects of these sizes; all methods are right as often."""
    rows = [
        {
            "model": model,
            "object_size": size,
            "methods": {
                name: {
                    "text": "",
                    "score": index % 3 > 0,
                    "counts": {},
                    "outcome": "ok",
                    "seconds": cost / 100,
                    "cost": Cost(token_layers=float(cost)).to_dict(),
                }
                for name, cost in COSTS.items()
            },
        }
        for model in models
        for index, size in enumerate(sizes)
    ]
    found = {
        model: {
            "name": model,
            "visual_tokens": None,
            **summarize([r for r in rows if r["model"] == model], list(COSTS), ExactMatch()),
        }
        for model in models
    }
    options = {name: {} for name in COSTS}
    return {"models": found, "method_options": options, "curves": curves(found)}, rows


@pytest.fixture(scope="module")
def figures():
    return run_figures(*run([0.1 + 0.01 * i for i in range(N)], ("llava", "qwen")))


def colors(axes):
    """The colors of what a panel's legend would list, by method; of bars by their names."""
    if bars := axes.patches:
        names = [label.get_text() for label in axes.get_xticklabels()]
        return {n: to_hex(b.get_facecolor()) for n, b in zip(names, bars, strict=True)}
    found = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        line = handle if hasattr(handle, "get_color") else handle.lines[0]
        found[label] = to_hex(line.get_color())
    return found


def test_a_method_has_one_color_in_all_figures(figures):
    assert list(figures) == FIGURES
    expected = colors(figures["accuracy"].axes[0])
    assert list(expected) == list(COSTS)
    assert len(set(expected.values())) == 4
    assert expected["sdrpn[threshold=0.05]"] == expected["sdrpn"]
    for name, figure in figures.items():
        assert len(figure.axes) == 2
        for axes in figure.axes:
            found = colors(axes)
            assert {"baseline", "sdrpn", "attention", "full"} <= set(found)
            for method in found.keys() - {"Pareto front"}:
                assert found[method] == expected[method], (name, method)


@pytest.mark.parametrize("name", FIGURES[1:])
def test_a_legend_in_the_order_of_the_methods_names_them(figures, name):
    (legend,) = figures[name].legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert [one for one in shown if one != "Pareto front"] == [
        one for one in COSTS if name != "accuracy_and_cost" or "[" not in one
    ]
    for axes in figures[name].axes:
        assert not axes.texts, "names at the points would overlap"


@pytest.mark.parametrize("models", [("llava",), ("llava", "qwen")])
def test_nothing_reaches_out_of_a_figure(models):
    found = run_figures(*run([0.1 + 0.01 * i for i in range(N)], models))
    for figure in found.values():
        figure.canvas.draw()
        outline = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert outline.x0 >= 0
        assert outline.y0 >= 0
        assert outline.x1 <= width
        assert outline.y1 <= height


def test_methods_of_equal_accuracy_are_side_by_side_with_their_intervals(figures):
    axes = figures["accuracy_by_object_size"].axes[0]
    assert len(axes.containers) == len(COSTS)
    assert all(container.has_yerr for container in axes.containers)
    places = [container.lines[0].get_xdata() for container in axes.containers]
    bins = list(zip(*places, strict=True))
    assert len(bins) == 3
    for one, after in pairwise(bins):
        assert len(set(one)) == len(COSTS)
        assert max(one) < min(after)


@pytest.mark.parametrize(
    "sizes",
    [[0.1] * N, [0.1 + 0.01 * i for i in range(39)], [None] * N],
    ids=["one size", "too few", "no boxes"],
)
def test_sizes_that_make_a_single_bin_are_not_drawn(sizes, tmp_path):
    paths = write_figures(tmp_path, *run(sizes))
    assert [path.stem for path in paths] == [name for name in FIGURES if "size" not in name]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)

"""The section of the report on accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdrpn_bench.summary import REFERENCE, total_cost

_NONE = "–"

_COST = (
    "Cost: one token-layer is one token going through one decoder layer, forward or backward; "
    "padding and the RPN's layers count, the vision encoder does not. A pass is a sequence that "
    "goes through the decoder or its first layers; steps of decoding are left out. Peak memory is "
    "the most that was in use during any batch of a method (on a CPU: by the whole process)."
)
_AREA = (
    "Area: the best accuracy that a method reaches within a cost, averaged over all costs between "
    "the cheapest and the most expensive point of the model, on a logarithmic scale; 0 below the "
    "method's cheapest point. Nothing is interpolated. Controls that know the truth (`oracle`, "
    "`random`) are drawn, but count for no front and no area."
)
_EQUAL = (
    "Cost at equal accuracy: the least at which a method reaches the baseline's best accuracy, "
    "relative to what that costs the baseline. Points are means over the same questions: small "
    "differences between them are within the intervals."
)
NOTES = (_COST, _AREA, _EQUAL)


#: Header of the table of costs of one model.
COST_HEADER = (
    "cost / question", "token-layers", "of these backward", f"/ {REFERENCE}", "passes", "seconds",
    "peak memory",
)  # fmt: skip

_MIB = 2**20


def cost_row(name: str, values: Mapping[str, Any]) -> list[str]:
    """The costs of a method, as cells."""
    cost, ratio = values["cost"], values.get("cost_ratio")
    backward, peak = cost["backward_token_layers"], cost["peak_memory"]
    return [
        name,
        f"{total_cost(cost):,.0f}",
        f"{backward:,.0f}" if backward else _NONE,
        _NONE if ratio is None else f"{ratio:.2f}",
        f"{cost['passes']:.1f}",
        f"{values['seconds_per_question']:.3f}",
        _NONE if peak is None else f"{peak / _MIB:,.0f} MiB",
    ]


def curve_tables(curve: Mapping[str, Any]) -> list[tuple[tuple[str, ...], list[list[str]]]]:
    """The tables of one model, as headers and rows: the front, and the methods summed up."""
    low = curve["cost_range"][0]
    front = [
        [
            point["label"],
            f"{point['accuracy']:.1%}",
            f"{point['cost']:,.0f}",
            f"{point['cost'] / low:.2f}" if low else _NONE,
            f"{point['seconds']:.3f}",
        ]
        for point in curve["points"]
        if point["on_front"]
    ]
    equal = curve.get("equal_accuracy", {"methods": {}})["methods"]
    methods = []
    for name, area in curve["area"]["methods"].items():
        found = equal.get(name, {"cost": None, "ratio": None})
        methods.append(
            [
                name,
                f"{area:.3f}",
                _NONE if found["cost"] is None else f"{found['cost']:,.0f}",
                _NONE if found["ratio"] is None else f"{found['ratio']:.2f}",
            ]
        )
    methods.append(["front of all", f"{curve['area']['front']:.3f}", _NONE, _NONE])
    return [
        (("on the Pareto front", "accuracy", "token-layers", "/ cheapest", "s / question"), front),
        (("method", "area", "token-layers at equal accuracy", "/ baseline"), methods),
    ]

"""Accuracy against cost: Pareto fronts, areas, and what equal accuracy costs.

The points of a method are its results with every value of a sweep and every budget of visual
tokens. Nothing is interpolated: an accuracy counts from the cost on at which it was reached.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

from sdrpn_bench.summary import REFERENCE, total_cost
from sdrpn_bench.sweep import base_of


@dataclass(frozen=True)
class Point:
    """One result.

    Attributes:
        method: name, without the value of a sweep.
        label: the same with this value and the budget.
        cost: token-layers per question, backward ones included.
        accuracy: mean score.
        interval: of the accuracy.
        seconds: per question.
        is_control: whether the method knows the truth: it is shown, but is no rival of the others.
    """

    method: str
    label: str
    cost: float
    accuracy: float
    interval: tuple[float, float]
    seconds: float
    is_control: bool = False


def curves(
    models: Mapping[str, Mapping[str, Any]], controls: Collection[str] = ()
) -> dict[str, Any]:
    """Sum up the results of every model, those of all its budgets together.

    Args:
        models: as in the results, by name.
        controls: methods that know the truth. They are points, and otherwise left out.

    Returns:
        By model without its budget: ``points`` in the order of cost, each with whether it is
        ``on_front``; ``cost_range``; ``area`` by method, and under the ``front`` of all; and
        ``equal_accuracy``: the best accuracy of the baseline, and per method the least cost at
        which it is reached (``None`` if it is not), also relative to the baseline's.
    """
    by_model: dict[str, list[Point]] = {}
    for model in models.values():
        points = _points(model["methods"], model["visual_tokens"], controls)
        by_model.setdefault(model["name"], []).extend(points)
    return {name: _curve(sorted(points, key=_by_cost)) for name, points in by_model.items()}


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats: none is as accurate at less cost, or better at the same.

    Args:
        points: any.

    Returns:
        In the order of cost, which is that of accuracy, too.
    """
    front: list[Point] = []
    for point in sorted(points, key=_by_cost):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def area(points: Sequence[Point], low: float, high: float) -> float:
    """The best accuracy within a cost, averaged over costs on a logarithmic scale, 0 to 1.

    Args:
        points: of a method. Below the cost of the cheapest one, the accuracy is 0.
        low: where the range of costs begins.
        high: where it ends; at ``low``, the accuracy there is taken.
    """
    front = [point for point in pareto_front(points) if point.cost <= high]
    if high <= low:
        return front[-1].accuracy if front else 0.0
    ends = [point.cost for point in front[1:]] + [high]
    widths = [
        log(max(end, low) / max(point.cost, low)) for point, end in zip(front, ends, strict=False)
    ]
    accuracies = [point.accuracy for point in front]
    return sum(w * a for w, a in zip(widths, accuracies, strict=True)) / log(high / low)


def cost_at(points: Sequence[Point], accuracy: float) -> float | None:
    """The least cost at which an accuracy is reached; ``None`` if it is not."""
    return min((point.cost for point in points if point.accuracy >= accuracy), default=None)


def _by_cost(point: Point) -> tuple[float, float]:
    return point.cost, -point.accuracy


def _points(
    methods: Mapping[str, Any], budget: int | None, controls: Collection[str]
) -> list[Point]:
    at = "" if budget is None else f" @{budget}"
    return [
        Point(
            base_of(name),
            f"{name}{at}",
            total_cost(values["cost"]),
            values["accuracy"],
            (values["interval"][0], values["interval"][1]),
            values["seconds_per_question"],
            base_of(name) in controls,
        )
        for name, values in methods.items()
    ]


def _curve(points: Sequence[Point]) -> dict[str, Any]:
    by_method: dict[str, list[Point]] = {}
    rivals = [point for point in points if not point.is_control]
    for point in rivals:
        by_method.setdefault(point.method, []).append(point)
    low, high = (rivals[0].cost, rivals[-1].cost) if rivals else (0.0, 0.0)
    front = pareto_front(rivals)
    summed: dict[str, Any] = {
        "points": [
            {**vars(point), "interval": list(point.interval), "on_front": point in front}
            for point in points
        ],
        "cost_range": [low, high],
        "area": {
            "front": area(rivals, low, high),
            "methods": {name: area(own, low, high) for name, own in by_method.items()},
        },
    }
    if REFERENCE in by_method:
        best = max(point.accuracy for point in by_method[REFERENCE])
        base = cost_at(by_method[REFERENCE], best)
        costs = {name: cost_at(own, best) for name, own in by_method.items()}
        summed["equal_accuracy"] = {
            "accuracy": best,
            "methods": {
                name: {"cost": cost, "ratio": cost / base if cost and base else None}
                for name, cost in costs.items()
            },
        }
    return summed

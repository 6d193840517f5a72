"""How the models of a run differ from the first one, on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdrpn_bench.item_store import Row
from sdrpn_bench.paired_results import pair_results

__all__ = ["model_differences"]


def model_differences(
    rows: Sequence[Row], models: Sequence[str], methods: Sequence[str]
) -> dict[str, Any]:
    """Compare every model with the first, method by method.

    Args:
        rows: item results of all models; questions that one of two models could not be asked, or
            not by the method, do not count.
        models: two or more, in order.
        methods: in order.

    Returns:
        ``reference``, the first model, and under ``models``, per other model and method, what
        :class:`~sdrpn_bench.paired_results.PairedResults` holds.
    """
    scored: dict[str, dict[int, Row]] = {model: {} for model in models}
    for row in rows:
        if "methods" in row:
            scored[row["model"]][row["index"]] = row["methods"]
    first, *others = models
    return {
        "reference": first,
        "models": {other: _differences(scored[other], scored[first], methods) for other in others},
    }


def _differences(
    own: dict[int, Row], first: dict[int, Row], methods: Sequence[str]
) -> dict[str, Any]:
    both = [(row, first[index]) for index, row in own.items() if index in first]
    found = {}
    for method in methods:
        served = [(a[method], b[method]) for a, b in both if method in a and method in b]
        if served:
            found[method] = pair_results(*zip(*served, strict=True)).to_dict()
    return found

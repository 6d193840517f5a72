"""How many of a run's items the accuracies are over, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["scored_items"]


def scored_items(results: Mapping[str, Any]) -> str:
    """``n = 5, 3 of 8 skipped``; where models differ, from the least to the most.

    Args:
        results: what ``run_benchmark`` returned.
    """
    models = results["models"].values()
    skipped = _range([model["skipped"]["n"] for model in models])
    scored = f"n = {_range([model['n'] for model in models])}"
    return scored if skipped == "0" else f"{scored}, {skipped} of {results['n']} skipped"


def _range(numbers: list[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"

"""Aggregate item results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from sdrpn_bench.intervals import paired_difference
from sdrpn_bench.item_store import Row
from sdrpn_bench.measure import ERROR_OUTCOME
from sdrpn_core.util.wilson import wilson

#: The method that the others are compared with.
REFERENCE = "baseline"


def summarize(rows: Sequence[Row], methods: Sequence[str]) -> dict[str, Any]:
    """Aggregate the results of one model.

    Args:
        rows: its item results, including those without an answer.
        methods: the compared methods, in order.

    Returns:
        ``n`` scored items, ``skipped`` (number and reasons), and per method: accuracy with its
        interval, difference from the baseline, outcomes, cost (seconds per question, in total and
        by stage of the answer), and pointing if boxes are known.
    """
    scored = [row for row in rows if "methods" in row]
    skipped = [{"id": row["id"], "error": row["error"]} for row in rows if "methods" not in row]
    by_method = {name: [row["methods"][name] for row in scored] for name in methods}
    return {
        "n": len(scored),
        "skipped": {"n": len(skipped), "items": skipped},
        "methods": {
            name: _method(by_method[name], by_method.get(REFERENCE) if name != REFERENCE else None)
            for name in methods
        },
    }


def _method(results: Sequence[Row], reference: Sequence[Row] | None) -> dict[str, Any]:
    correct = [result["correct"] for result in results]
    n, n_correct = len(correct), sum(correct)
    seconds = [result["seconds"] for result in results]
    tokens = [result["visual_tokens"] for result in results if "visual_tokens" in result]
    values: dict[str, Any] = {
        "accuracy": n_correct / n,
        "interval": list(wilson(n_correct, n)),
        "correct": n_correct,
        "n": n,
        "outcomes": dict(Counter(result["outcome"] for result in results)),
        "errors": sum(result["outcome"] == ERROR_OUTCOME for result in results),
        "visual_tokens": fmean(tokens) if tokens else None,
        "seconds_per_question": fmean(seconds),
        "stages": _stages(results),
        "pointing": {
            "map": _share(results, "map_hit"),
            "crop": _share(results, "crop_hit"),
        },
    }
    if reference is not None:
        difference = paired_difference(correct, [result["correct"] for result in reference])
        values["difference"] = difference.to_dict()
        values["time_ratio"] = sum(seconds) / sum(result["seconds"] for result in reference)
    return values


def _stages(results: Sequence[Row]) -> dict[str, float]:
    """Mean seconds of an answer, by stage."""
    found = [result["stages"] for result in results if "stages" in result]
    names = dict.fromkeys(name for stages in found for name in stages)
    return {name: fmean(stages.get(name, 0.0) for stages in found) for name in names}


def _share(results: Sequence[Row], key: str) -> dict[str, Any] | None:
    hits = [result[key] for result in results if key in result]
    if not hits:
        return None
    return {
        "accuracy": sum(hits) / len(hits),
        "interval": list(wilson(sum(hits), len(hits))),
        "n": len(hits),
    }

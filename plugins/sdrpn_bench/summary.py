"""Aggregate item results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sdrpn_bench.intervals import is_graded, mean_interval, paired_difference
from sdrpn_bench.item_store import Row
from sdrpn_bench.measure import ERROR_OUTCOME
from sdrpn_bench.totals import metric_totals
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.util.wilson import wilson

if TYPE_CHECKING:
    from sdrpn_bench.metrics.metric import Metric

#: The method that the others are compared with.
REFERENCE = "baseline"


def summarize(rows: Sequence[Row], methods: Sequence[str], metric: Metric) -> dict[str, Any]:
    """Aggregate the results of one model.

    Args:
        rows: its item results, including those without an answer.
        methods: the compared methods, in order.
        metric: what the answers were scored by.

    Returns:
        ``n`` scored items, ``skipped`` (number and reasons), and per method: accuracy (the mean
        score) with its interval, the metric's other totals, difference from the baseline, the same
        per category, outcomes, cost (seconds per question, in total and by stage of the answer;
        token-layers, passes, and peak memory in bytes), pointing if boxes are known, and behind a
        gate the share of the questions for which no region was looked for.
    """
    scored = [row for row in rows if "methods" in row]
    skipped = [{"id": row["id"], "error": row["error"]} for row in rows if "methods" not in row]
    summarized = {}
    for name in methods:
        # A method that needs boxes is compared on the items that have them.
        served = [row for row in scored if name in row["methods"]]
        if not served:
            continue
        results = [row["methods"][name] for row in served]
        reference = None
        if name != REFERENCE and REFERENCE in methods:
            reference = [row["methods"][REFERENCE] for row in served]
        summarized[name] = _method(results, reference, metric)
        for category, places in _places_by_category(served).items():
            own = [results[place] for place in places]
            beside = [reference[place] for place in places] if reference is not None else None
            summarized[name]["categories"][category] = _accuracy(own, beside, metric)
    return {
        "n": len(scored),
        "skipped": {"n": len(skipped), "items": skipped},
        "methods": summarized,
    }


def _places_by_category(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Indices of the rows of each category; rows without one are in none."""
    found: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.get("category") is not None:
            found.setdefault(row["category"], []).append(place)
    return dict(sorted(found.items()))


def _method(
    results: Sequence[Row], reference: Sequence[Row] | None, metric: Metric
) -> dict[str, Any]:
    seconds = [result["seconds"] for result in results]
    tokens = [result["visual_tokens"] for result in results if "visual_tokens" in result]
    values: dict[str, Any] = {
        **_accuracy(results, reference, metric),
        "categories": {},
        "outcomes": dict(Counter(result["outcome"] for result in results)),
        "errors": sum(result["outcome"] == ERROR_OUTCOME for result in results),
        "visual_tokens": fmean(tokens) if tokens else None,
        "seconds_per_question": fmean(seconds),
        "cost": _cost(results),
        "stages": _stages(results),
        "pointing": {
            "map": _share(results, "map_hit"),
            "crop": _share(results, "crop_hit"),
        },
    }
    if any("gate" in result or _is_skipped(result) for result in results):
        values["gate"] = _gate(results, reference)
    if reference is not None:
        values["time_ratio"] = sum(seconds) / sum(result["seconds"] for result in reference)
        base = total_cost(_cost(reference))
        values["cost_ratio"] = total_cost(values["cost"]) / base if base else None
    return values


def _gate(results: Sequence[Row], reference: Sequence[Row] | None) -> dict[str, Any]:
    """For which share of the questions the gate says that no region is needed.

    Of all, and of those that the reference answers right (wrong) without one.
    """
    groups: dict[str, Sequence[Row]] = {"skipped": results}
    if reference is not None:
        for name, is_right in (("skipped_of_right", True), ("skipped_of_wrong", False)):
            groups[name] = [
                result
                for result, plain in zip(results, reference, strict=True)
                if (plain["score"] == 1) == is_right
            ]
    return {name: _skipped(group) for name, group in groups.items() if group}


def _skipped(results: Sequence[Row]) -> dict[str, Any]:
    n_skipped = sum(map(_is_skipped, results))
    return {
        "share": n_skipped / len(results),
        "interval": list(wilson(n_skipped, len(results))),
        "n": len(results),
    }


def _is_skipped(result: Row) -> bool:
    return bool(result["outcome"] == Outcome.NOT_NEEDED.value)


def total_cost(cost: Mapping[str, Any]) -> float:
    """Token-layers per question, forward and backward."""
    return float(cost["token_layers"] + cost["backward_token_layers"])


def _cost(results: Sequence[Row]) -> dict[str, Any]:
    """Means per question, and the largest peak of memory."""
    costs = [result["cost"] for result in results]
    peaks = [cost["peak_memory"] for cost in costs if cost["peak_memory"] is not None]
    means = ("token_layers", "backward_token_layers", "passes")
    return {
        **{name: fmean(cost[name] for cost in costs) for name in means},
        "peak_memory": max(peaks, default=None),
    }


def _accuracy(
    results: Sequence[Row], reference: Sequence[Row] | None, metric: Metric
) -> dict[str, Any]:
    """The mean score, the metric's other totals, and how they differ from the reference's."""
    scores = [result["score"] for result in results]
    values: dict[str, Any] = {
        "accuracy": fmean(scores),
        "interval": list(mean_interval(scores)),
        "graded": is_graded(scores),
        "correct": scores.count(1),
        "n": len(scores),
        "totals": metric_totals(
            metric,
            [result["counts"] for result in results],
            None if reference is None else [result["counts"] for result in reference],
        ),
    }
    if reference is not None:
        difference = paired_difference(scores, [result["score"] for result in reference])
        values["difference"] = difference.to_dict()
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
        "correct": sum(hits),
        "n": len(hits),
    }

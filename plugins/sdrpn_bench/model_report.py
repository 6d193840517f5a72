"""A model's part of ``report.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdrpn_bench.curve_report import COST_HEADER, cost_row
from sdrpn_bench.markdown import table
from sdrpn_bench.report_cells import (
    CROP_HITS,
    MAP_HITS,
    NONE,
    counted_share,
    points,
    share,
    with_interval,
)
from sdrpn_bench.summary import REFERENCE
from sdrpn_core.runtime.clock import ANSWER_STAGES

_MAX_LISTED = 10


def model_lines(model: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown about one model: its accuracies, costs, outcomes, and what was left out.

    Args:
        model: its entry in ``results.json``.
    """
    methods = model["methods"]
    lines = [
        f"Backbone `{model['model']}`, RPN `{model['rpn'] or 'none'}`, {model['n']} items scored.",
        *_published_lines(model),
        *_partial_lines(model),
        "",
        *table(
            ("method", "accuracy (95%)", f"difference from {REFERENCE} (95%)", "McNemar p",
             "visual tokens", "s / question", f"time / {REFERENCE}"),
            [_accuracy_row(name, values) for name, values in methods.items()],
        ),
        *_totals_lines(methods),
        *_category_lines(methods),
        "",
        *table(COST_HEADER, [cost_row(name, values) for name, values in methods.items()]),
        "",
        *_outcome_table(methods),
        "",
        *_stage_table(methods),
    ]  # fmt: skip
    pointing = [
        (name, *(counted_share(values["pointing"][what]) for what in ("map", "crop")))
        for name, values in methods.items()
        if any(values["pointing"].values())
    ]
    if pointing:
        lines += [
            "",
            *table(("method", MAP_HITS, CROP_HITS), pointing),
        ]
    lines += _gate_lines(methods)
    if model["refused"]:
        lines += ["", "Left out:", ""]
        lines += [f"- `{name}`: {reason}" for name, reason in model["refused"].items()]
    if model["skipped"]["n"]:
        items = model["skipped"]["items"]
        lines += ["", f"Skipped for all methods: {len(items)} of {len(items) + model['n']}.", ""]
        lines += [f"- `{item['id']}`: {item['error']}" for item in items[:_MAX_LISTED]]
        if len(items) > _MAX_LISTED:
            lines.append(f"- and {len(items) - _MAX_LISTED} more, see `items.jsonl`")
    return lines


def _totals_lines(methods: Mapping[str, Any]) -> list[str]:
    """Tabulate what the metric computes besides the mean score, such as F1."""
    names = list(dict.fromkeys(name for values in methods.values() for name in values["totals"]))
    if not names:
        return []
    rows = [
        [method, *(_total(values["totals"][name]) for name in names)]
        for method, values in methods.items()
    ]
    return ["", *table(("method", *(f"{name} (95%)" for name in names)), rows)]


def _total(total: Mapping[str, Any]) -> str:
    difference = total.get("difference")
    return with_interval(total["value"], total["interval"]) + (
        f", {points(difference)}" if difference else ""
    )


def _category_lines(methods: Mapping[str, Any]) -> list[str]:
    """Tabulate categories by methods, where records have any: accuracy and gain."""
    found = dict.fromkeys(name for values in methods.values() for name in values["categories"])
    rows = []
    for category in found:
        cells = [values["categories"].get(category) for values in methods.values()]
        rows.append([category, str(max(cell["n"] for cell in cells if cell)), *map(_cell, cells)])
    return ["", *table(("category", "items", *methods), rows)] if rows else []


def _cell(values: Mapping[str, Any] | None) -> str:
    """Accuracy and gain; a method that needs boxes may have no item of a category."""
    if values is None or "difference" not in values:
        return share(values)
    return f"{share(values)}, {points(values['difference'])}"


def _published_lines(model: Mapping[str, Any]) -> list[str]:
    """Say which options are published ones."""
    return [
        f"`{method}` runs with "
        + ", ".join(f"{name} {value}" for name, value in options.items() if value is not None)
        + f", as published for {model['preset']} on this dataset; `--method-option` overrides it."
        for method, options in model.get("published_options", {}).items()
    ]


def _partial_lines(model: Mapping[str, Any]) -> list[str]:
    """Say which methods answered only some of the items."""
    return [
        f"`{name}` needs boxes: {values['n']} items have some, and the difference is over these."
        for name, values in model["methods"].items()
        if values["n"] < model["n"]
    ]


def _accuracy_row(name: str, values: Mapping[str, Any]) -> list[str]:
    difference = values.get("difference")
    tokens = values["visual_tokens"]
    return [
        name,
        share(values),
        points(difference) if difference else NONE,
        f"{difference['p_value']:.2g}"
        if difference and difference["p_value"] is not None
        else NONE,
        NONE if tokens is None else f"{tokens:.0f}",
        f"{values['seconds_per_question']:.3f}",
        f"{values['time_ratio']:.2f}" if "time_ratio" in values else NONE,
    ]


def _outcome_table(methods: Mapping[str, Any]) -> list[str]:
    found = list(dict.fromkeys(key for values in methods.values() for key in values["outcomes"]))
    rows = [
        [name, *(str(values["outcomes"].get(outcome, 0)) for outcome in found)]
        for name, values in methods.items()
    ]
    return table(["outcomes", *found], rows)


def _stage_table(methods: Mapping[str, Any]) -> list[str]:
    """Tabulate the time of an answer by stage."""
    named = dict.fromkeys(stage for values in methods.values() for stage in values["stages"])
    # A third-party proposer may have its own stages.
    stages = [stage for stage in ANSWER_STAGES if stage in named]
    stages += [stage for stage in named if stage not in ANSWER_STAGES]
    rows = []
    for name, values in methods.items():
        seconds = [values["stages"].get(stage) for stage in stages]
        rows.append([name, *(NONE if s is None else f"{1000 * s:.1f}" for s in seconds)])
    return table(["ms / question", *stages], rows)


def _gate_lines(methods: Mapping[str, Any]) -> list[str]:
    """Tabulate for which share of the questions a gate had no region looked for."""
    names = ("skipped", "skipped_of_right", "skipped_of_wrong")
    rows = [
        [method, *(_skipped(values["gate"].get(name)) for name in names)]
        for method, values in methods.items()
        if "gate" in values
    ]
    header = ("method", "region skipped (95%)", f"{REFERENCE} is right", f"{REFERENCE} is wrong")
    return ["", *table(header, rows)] if rows else []


def _skipped(values: Mapping[str, Any] | None) -> str:
    return NONE if values is None else with_interval(values["share"], values["interval"])

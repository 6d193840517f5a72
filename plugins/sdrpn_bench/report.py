"""``report.md``: the results as tables, with notes on how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdrpn_bench.bootstrap import N_RESAMPLES
from sdrpn_bench.curve_report import COST_HEADER, NOTES, cost_row, curve_tables
from sdrpn_bench.markdown import table
from sdrpn_bench.percent import percent
from sdrpn_bench.summary import REFERENCE
from sdrpn_core.runtime.clock import ANSWER_STAGES
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_core.util.wilson import Z95

REPORT_NAME = "report.md"
_MAX_LISTED = 10
_NONE = "–"

_INTERVALS = (
    f"Accuracies have Wilson score intervals (z = {Z95:.2f}); differences are paired by item, "
    "with Newcombe's interval (1998, method 10). Where scores lie between 0 and 1, and for totals "
    f"such as F1, items are resampled instead ({N_RESAMPLES} times, percentile intervals), and "
    "there is no McNemar test. All of these reflect how much the choice of items may matter, not "
    "the effect of another training run or another prompt, and they are not corrected for multiple "
    "comparisons."
)
_CONTROLS = (
    "`random` and `oracle` know the true box (its size, and all of it): they are controls, not "
    "practical methods. `full` takes its number of visual tokens from an answer that is no part of "
    "its cost. `attention` takes an entire plain answer before its second pass. Where only the "
    "policy changes in a sweep, maps are computed once, and each point is charged for them."
)


def write_report(folder: Path, results: Mapping[str, Any], figures: Sequence[Path]) -> Path:
    """Write the report of :func:`render_report` next to the results."""
    path = folder / REPORT_NAME
    with atomic_write(path) as file:
        file.write(render_report(results, [figure.relative_to(folder) for figure in figures]))
    return path


def render_report(results: Mapping[str, Any], figures: Sequence[Path] = ()) -> bytes:
    """Render the report as Markdown, in UTF-8.

    Args:
        results: what ``run_benchmark`` returned.
        figures: paths of the figures, relative to the report.
    """
    lines = [
        "# Benchmark",
        "",
        f"Data: {results['data']}, {results['n']} items, seed {results['seed']}.",
        f"Metric: {_metric(results['metric'])}; the accuracy is its mean.",
    ]
    if len(results["models"]) > 1:
        lines += ["", "## All models", "", *_all_models(results["models"])]
        lines += ["", *_model_differences(results["model_differences"])]
    for name, model in results["models"].items():
        lines += ["", f"## {name}", "", *_model_lines(model)]
    lines += ["", "## Accuracy against cost", *_curve_lines(results["curves"])]
    if figures:
        lines += ["", "## Figures", ""]
        lines += [f"![{path.stem.replace('_', ' ')}]({path.as_posix()})" for path in figures]
    lines += ["", "## How to read this", "", *_notes(results)]
    lines += ["", "## Environment", "", *_environment(results), ""]
    return "\n".join(lines).encode()


def _all_models(models: Mapping[str, Any]) -> list[str]:
    """Tabulate methods by models: accuracy, and the gain over the reference with its interval."""
    methods = dict.fromkeys(method for model in models.values() for method in model["methods"])
    rows = []
    for method in methods:
        cells = []
        for model in models.values():
            values = model["methods"].get(method)
            if values is None:
                cells.append(_NONE)
                continue
            gain = values.get("difference")
            cells.append(
                percent(values["accuracy"]) + (f", {_points(gain)}" if gain is not None else "")
            )
        rows.append([method, *cells])
    return table(["method", *models], rows)


def _model_differences(differences: Mapping[str, Any]) -> list[str]:
    """Tabulate how each model differs from the first, with the number of questions."""
    first, others = differences["reference"], differences["models"]
    methods = dict.fromkeys(method for model in others.values() for method in model)
    rows = []
    for method in methods:
        found = [model.get(method) for model in others.values()]
        rows.append([method, *(_NONE if one is None else _paired(one) for one in found)])
    return [
        f"Paired differences between models on the same questions, from `{first}` (95%):",
        "",
        *table(["method", *(f"{name} minus {first}" for name in others)], rows),
    ]


def _paired(found: Mapping[str, Any]) -> str:
    return f"{_points(found['difference'])}, n = {found['n']}"


def _model_lines(model: Mapping[str, Any]) -> list[str]:
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
        (name, _share(values["pointing"]["map"]), _share(values["pointing"]["crop"]))
        for name, values in methods.items()
        if any(values["pointing"].values())
    ]
    if pointing:
        lines += [
            "",
            *table(("method", "map peak in a true box", "crop contains its center"), pointing),
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


def _curve_lines(curves: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, curve in curves.items():
        lines += ["", f"### {name}"]
        for header, rows in curve_tables(curve):
            lines += ["", *table(header, rows)]
    return lines


def _metric(metric: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key} = {value}" for key, value in metric["options"].items())
    return f"`{metric['name']}`" + (f" ({options})" if options else "")


def _totals_lines(methods: Mapping[str, Any]) -> list[str]:
    """Tabulate what the metric computes beside the mean score, such as F1."""
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
    return _interval_text(total["value"], total["interval"]) + (
        f", {_points(difference)}" if difference else ""
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
        return _share(values)
    return f"{_share(values)}, {_points(values['difference'])}"


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
        _share(values),
        _points(difference) if difference else _NONE,
        f"{difference['p_value']:.2g}"
        if difference and difference["p_value"] is not None
        else _NONE,
        _NONE if tokens is None else f"{tokens:.0f}",
        f"{values['seconds_per_question']:.3f}",
        f"{values['time_ratio']:.2f}" if "time_ratio" in values else _NONE,
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
        rows.append([name, *(_NONE if s is None else f"{1000 * s:.1f}" for s in seconds)])
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
    return _NONE if values is None else _interval_text(values["share"], values["interval"])


def _share(values: Mapping[str, Any] | None) -> str:
    if not values:
        return _NONE
    return _interval_text(values["accuracy"], values["interval"])


def _interval_text(share: float, interval: Sequence[float]) -> str:
    low, high = map(percent, interval)
    return f"{percent(share)} ({low} to {high})"


def _points(difference: Mapping[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{100 * difference['value']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) points"


def _notes(results: Mapping[str, Any]) -> list[str]:
    errors = {
        f"{method} ({name})": values["errors"]
        for name, model in results["models"].items()
        for method, values in model["methods"].items()
        if values["errors"]
    }
    failed = ": " + ", ".join(f"{k} {v}" for k, v in errors.items()) if errors else ""
    items = (
        "Items whose image cannot be read are skipped for all methods; an item on which only one "
        f"method fails counts as wrong for that method{failed}."
    )
    costs = (
        f"Wall times are per question, in batches of {results['batch_size']}, and exclude opening "
        "the images. The methods take turns on every batch, so that a busy machine slows down all "
        "of them: ratios mean more than seconds. By stage: `vision` encodes the image. In a plain "
        "answer, `prefill` runs the prompt; otherwise, `prefix` runs it up to the end of "
        "the image, `question` runs the rest up to the branch layer, `proposal` scores the map and "
        "chooses the crops, `crop` encodes them, and `roi_prefill` runs them and the question. "
        "`decode` generates the response."
    )
    notes = [_INTERVALS, items, costs, *NOTES, _CONTROLS]
    options = {name: values for name, values in results["method_options"].items() if values}
    if options:
        listed = "; ".join(
            f"{name}: " + ", ".join(f"{key} = {value}" for key, value in values.items())
            for name, values in options.items()
        )
        notes.append(f"Options (None: the default of the model): {listed}.")
    return [f"- {note}" for note in notes]


def _environment(results: Mapping[str, Any]) -> list[str]:
    facts = {
        **results["environment"],
        "processes": str(results["processes"]),
        "batch size": str(results["batch_size"]),
        "max new tokens": str(results["max_new_tokens"]),
        "data fingerprint": results["data_fingerprint"],
    }
    return [f"- {name}: {value}" for name, value in facts.items()]

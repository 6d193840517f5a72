"""What a finished run found, as ``results.json`` holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdrpn_bench.curve import curves
from sdrpn_bench.environment import environment
from sdrpn_bench.item_store import Row
from sdrpn_bench.model_differences import model_differences
from sdrpn_bench.run_config import CONFIG
from sdrpn_bench.summary import summarize
from sdrpn_bench.sweep import base_of
from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from sdrpn_bench.bench_model import BenchModel
    from sdrpn_bench.method import Method
    from sdrpn_bench.preparation import Run


def run_results(run: Run, models: Sequence[BenchModel], n_processes: int) -> dict[str, Any]:
    """What a finished run found, in plain JSON values.

    Raises:
        InputError: an item or a result is missing, or no item could be answered.
    """
    config = run.config
    rows = run.store.read()
    summaries = {}
    for model in models:
        own = [row for row in rows if row["model"] == model.label]
        if len(own) != len(run.records):
            raise InputError(
                f"{run.store.folder}: {len(own)} of {len(run.records)} items of model "
                f"{model.label!r} were found: all processes must share this folder"
            )
        for row in own:
            needed = {name for name, method in run.methods.items() if _serves(method, row)}
            needed -= row.get("refused", {}).keys()
            if lacking := sorted(needed - row.get("methods", run.methods).keys()):
                raise InputError(
                    f"{run.store.folder}: item {row['id']!r} has no result of method "
                    f"{lacking[0]!r}: {CONFIG.remedy}"
                )
        if all("error" in row for row in own):
            raise InputError(f"no item could be answered; the first error: {own[0]['error']}")
        summaries[model.label] = {
            "name": model.name,
            "visual_tokens": model.visual_tokens,
            "refused": own[0].get("refused", {}),
            "model": model.origin,
            "rpn": model.rpn_origin,
            **run.loaded.get(model.label, {}),
            **summarize(own, list(run.methods), run.metric),
        }
    results = {
        "data": config["data"],
        "data_fingerprint": config["data_fingerprint"],
        "n": len(run.records),
        "seed": run.seed,
        "batch_size": run.batch_size,
        "max_new_tokens": run.max_new_tokens,
        "processes": n_processes,
        "metric": config["metric"],
        "total": run.total,
        "method_options": config["methods"],
        "published": config["published"],
        "environment": environment(),
    }
    if len(models) == 1:
        results["methods"] = summaries[models[0].label]["methods"]
    else:
        results["model_differences"] = model_differences(rows, list(summaries), list(run.methods))
    return {**results, "models": summaries, "curves": curves(summaries, _controls(run))}


def _controls(run: Run) -> set[str]:
    return {base_of(name) for name, method in run.methods.items() if method.is_control}


def _serves(method: Method, row: Row) -> bool:
    return row.get("regions") is not None or not method.needs_boxes

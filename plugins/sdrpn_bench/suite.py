"""Several datasets in one run: each as a run of its own, and one table over all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdrpn_bench.bench_model import BenchModel
from sdrpn_bench.defaults import DEFAULT_BATCH_SIZE
from sdrpn_bench.item_store import ItemStore
from sdrpn_bench.paper_table import paper_table
from sdrpn_bench.preparation import named_models, prepare_run
from sdrpn_bench.report import REPORT_NAME
from sdrpn_bench.run_config import RESULTS_NAME
from sdrpn_bench.runner import finish_runs
from sdrpn_bench.scored_items import scored_items
from sdrpn_bench.scoring import MetricChoice
from sdrpn_bench.share import Progress
from sdrpn_bench.sweep import Sweep
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.record import RecordSource
from sdrpn_core.distributed.processes import processes, wait_for_everyone
from sdrpn_core.errors import ConfigError
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_core.util.json_files import write_json

__all__ = ["run_suite"]

_NOT_IN_A_NAME = re.compile(r"[^\w.+-]+")


def run_suite(
    models: str | Path | BenchModel | Sequence[str | Path | BenchModel],
    methods: Sequence[str] | None,
    sources: Sequence[RecordSource],
    *,
    out: str | Path,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_new_tokens: int | None = None,
    max_pixels: int = MAX_PIXELS,
    method_options: Mapping[str, Mapping[str, Any]] | None = None,
    sweeps: Sequence[Sweep] = (),
    visual_tokens: Sequence[int] = (),
    metric: MetricChoice | None = None,
    metric_options: Mapping[str, Any] | None = None,
    load_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare methods on several datasets; every model is loaded once.

    The data of all of them is checked before. With one dataset this is ``run_benchmark``.

    Args:
        models: see :func:`~sdrpn_bench.runner.run_benchmark`, as for what is not listed here.
        methods: the same.
        sources: opened datasets, see ``read_records``.
        out: folder for ``results.json`` and ``report.md``, and a folder for the run of each
            dataset; with one dataset, its run.
        seed: positions of random crops.
        batch_size: questions per batch.
        max_new_tokens: maximum length of an answer; default: that of each dataset.
        max_pixels: items whose image has more pixels are left out.
        method_options: options, by method.
        sweeps: values of an option of a method.
        visual_tokens: budgets, with each of which every model is run.
        metric: default: that of each dataset.
        metric_options: options of a metric that is given by name.
        load_options: arguments of ``load_backbone``.
        overwrite: start over.
        progress: called after every batch, with the names of model and dataset.

    Returns:
        What ``results.json`` holds: with one dataset its results, else ``datasets``, the results by
        dataset.

    Raises:
        SdrpnError: see :func:`~sdrpn_bench.runner.run_benchmark`.
        ConfigError: no dataset, or two whose folders would have the same name.
    """
    folder = Path(out)
    state = processes((load_options or {}).get("device"))
    named = named_models(models, visual_tokens)
    folders = _folders(folder, sources)
    runs = [
        prepare_run(
            named,
            methods,
            records,
            ItemStore(place, state.process_index),
            seed=seed,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            max_pixels=max_pixels,
            method_options=method_options,
            sweeps=sweeps,
            metric=metric,
            metric_options=metric_options,
            load_options=load_options,
        )
        for records, place in zip(sources, folders, strict=True)
    ]
    found = finish_runs(runs, named, state, load_options or {}, overwrite, progress)
    if len(found) == 1:
        return found[0]
    names = [place.name for place in folders]
    results = {"datasets": dict(zip(names, found, strict=True))}
    if state.is_main_process:
        write_json(folder / RESULTS_NAME, results)
        lines = ["# Benchmark", "", *paper_table(results["datasets"]), "", _NOTE, ""]
        lines += [
            f"- [{name}]({name}/{REPORT_NAME}): {scored_items(one)}"
            for name, one in results["datasets"].items()
        ]
        with atomic_write(folder / REPORT_NAME) as file:
            file.write("\n".join([*lines, ""]).encode())
    wait_for_everyone(state)
    return results


_NOTE = (
    "Percent of the metric in the header. Published numbers are those of the paper that the "
    "dataset's plugin names, for the model with the same preset; the thresholds that they were "
    "made with are used here unless others were chosen. Of each dataset, the accuracies are over "
    "its n scored questions, and its report has intervals, costs and thresholds:"
)


def _folders(out: Path, sources: Sequence[RecordSource]) -> list[Path]:
    if not sources:
        raise ConfigError("give at least one dataset")
    if len(sources) == 1:
        return [out]
    names = [_NOT_IN_A_NAME.sub("-", one.dataset or Path(one.name).stem) for one in sources]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two datasets are called {name!r}: run them one by one")
    return [out / name for name in names]

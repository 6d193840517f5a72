"""Run the benchmark: every method on every item of the data, for one or more models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_bench.bench_model import BenchModel
from sdrpn_bench.defaults import DEFAULT_BATCH_SIZE
from sdrpn_bench.figures import write_figures
from sdrpn_bench.item_store import ItemStore
from sdrpn_bench.preparation import Run, named_models, prepare_run
from sdrpn_bench.report import write_report
from sdrpn_bench.run_config import RESULTS_NAME
from sdrpn_bench.run_results import run_results
from sdrpn_bench.scoring import MetricChoice
from sdrpn_bench.share import Progress, Share, answer_share
from sdrpn_bench.sweep import Sweep
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record
from sdrpn_core.distributed.processes import processes, wait_for_everyone
from sdrpn_core.util.folder_lock import hold_folder
from sdrpn_core.util.json_files import write_json

if TYPE_CHECKING:
    from accelerate import PartialState


def run_benchmark(
    models: str | Path | BenchModel | Sequence[str | Path | BenchModel],
    methods: Sequence[str] | None,
    dataset: str | Path | Sequence[Record],
    *,
    out: str | Path,
    n: int | None = None,
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
    """Compare methods on a dataset, and write results, a report and figures.

    A run that was interrupted goes on where it stopped. Started by ``accelerate launch`` the items
    are split over the processes, which must share the folder ``out``; every process returns the
    same results.

    Args:
        models: one or more: paths, Hub IDs, or :class:`BenchModel` (which also names an RPN).
        methods: registered names; ``None``: those of ``DEFAULT_METHODS`` that apply.
        dataset: what ``read_records`` accepts: a registered name, a file, or records. Records need
            what the metric asks for (``answers``); methods that need ``boxes`` run on the records
            that have them.
        out: folder for ``results.json``, ``items.jsonl``, ``config.json``, ``report.md`` and
            ``figures/``.
        n: number of items; default: all.
        seed: selects the items, and the positions of random crops.
        batch_size: questions per batch; affects the cost, not the answers.
        max_new_tokens: maximum length of an answer; default: that of the dataset, else
            ``DEFAULT_MAX_NEW_TOKENS``.
        max_pixels: items whose image has more pixels are left out.
        method_options: options, by method.
        sweeps: values of an option of a method, each of which is one more method.
        visual_tokens: budgets, with each of which every model is run; for families of dynamic
            resolution.
        metric: scores the answers: a registered name, a ``Metric``, or a function
            ``(prediction, record) -> score`` from 0 to 1; default: the dataset's own, else
            ``exact_match``.
        metric_options: options of a metric that is given by name.
        load_options: arguments of ``load_backbone`` (dtype, device, attn_implementation ...).
        overwrite: start over: delete the run in ``out``.
        progress: called after every batch.

    Returns:
        What ``results.json`` holds: ``n``, ``seed``, ``data``, ``models`` (by name), and for a
        single model its ``methods`` at the top as well; ``curves``: accuracy against cost.

    Raises:
        SdrpnError: another process uses ``out``.
        ConfigError: ``out`` holds a run with other settings; a method lacks what it needs.
        InputError: the data cannot be read, none of it can be scored, or no item could be answered.
        UnknownNameError: unknown method, metric or dataset.
    """
    state = processes((load_options or {}).get("device"))
    named = named_models(models, visual_tokens)
    run = prepare_run(
        named,
        methods,
        read_records(dataset, n=n, seed=seed),
        ItemStore(Path(out), state.process_index),
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
    (results,) = finish_runs([run], named, state, load_options or {}, overwrite, progress)
    return results


def finish_runs(
    runs: Sequence[Run],
    models: Sequence[BenchModel],
    state: PartialState,
    load_options: Mapping[str, Any],
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Answer what is unfinished in several runs of the same models, each loaded once.

    Returns:
        The results of each run, which were written with its report.

    Raises:
        SdrpnError: see :func:`run_benchmark`.
    """
    options = dict(load_options)
    if state.num_processes > 1 and not options.keys() & {"device", "device_map"}:
        options["device"] = state.device
    for model in models:  # before the first one runs for hours, and before the folder is written
        model.check(**options)
    with ExitStack() as held:
        for run in runs:
            if state.is_main_process:
                held.enter_context(hold_folder(run.store.folder))
                if overwrite:
                    run.store.clear()
                run.store.write_config(run.config)
        wait_for_everyone(state)
        for run in runs:
            run.store.write_config(run.config)
        # Every process must know what was done before any of them adds to it.
        done = [run.store.read() for run in runs]
        wait_for_everyone(state)
        for model in models:
            shares = [
                Share.of(run, model, rows, state) for run, rows in zip(runs, done, strict=True)
            ]
            if any(share.pending or share.own for share in shares):
                backbone, rpn = model.load(**options)
                for share in shares:
                    answer_share(share, backbone, rpn, progress, alone=len(runs) == 1)
                del backbone, rpn
        wait_for_everyone(state)
        return [_finish(run, models, state) for run in runs]


def _finish(run: Run, models: Sequence[BenchModel], state: PartialState) -> dict[str, Any]:
    if state.is_main_process:
        run.store.merge()
    wait_for_everyone(state)
    results = run_results(run, models, state.num_processes)
    if state.is_main_process:
        write_json(run.store.folder / RESULTS_NAME, results)
        figures = write_figures(run.store.folder, results, run.store.read())
        write_report(run.store.folder, results, figures)
    wait_for_everyone(state)
    return results

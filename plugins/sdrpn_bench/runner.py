"""Run the benchmark: every method on every item of the data, for one or more models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_bench.bench_model import BenchModel, fingerprint, with_names
from sdrpn_bench.defaults import DEFAULT_BATCH_SIZE, DEFAULT_MAX_NEW_TOKENS
from sdrpn_bench.environment import environment
from sdrpn_bench.figures import write_figures
from sdrpn_bench.item_store import CONFIG, ItemStore, Row
from sdrpn_bench.measure import OpenedItem, measure, open_items
from sdrpn_bench.method import Method, MethodContext
from sdrpn_bench.report import write_report
from sdrpn_bench.scoring import Scorer, find_scorer
from sdrpn_bench.summary import summarize
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record, RecordSource
from sdrpn_core.distributed.processes import processes, wait_for_everyone
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.util.folder_lock import hold_folder
from sdrpn_core.util.json_files import write_json
from sdrpn_core.util.prefetch import prefetched

if TYPE_CHECKING:
    from accelerate import PartialState

#: The methods that are compared by default, if the model and the data allow them.
DEFAULT_METHODS = ("baseline", "sdrpn", "attention", "random", "oracle")

RESULTS_NAME = "results.json"

Progress = Callable[[str, int, int], None]
"""Called with a model's name, and the number of this process's items: finished, and in total."""


@dataclass(frozen=True)
class _Run:
    """Everything that all models share."""

    records: RecordSource
    methods: Mapping[str, Method]
    scorer: Scorer
    store: ItemStore
    seed: int
    batch_size: int
    max_new_tokens: int
    max_pixels: int


def run_benchmark(
    models: str | Path | BenchModel | Sequence[str | Path | BenchModel],
    methods: Sequence[str] | None,
    dataset: str | Path | Sequence[Record],
    *,
    out: str | Path,
    n: int | None = None,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    max_pixels: int = MAX_PIXELS,
    method_options: Mapping[str, Mapping[str, Any]] | None = None,
    scorer: Scorer | None = None,
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
            an ``answer`` unless the dataset has its own scorer, and ``boxes`` for some methods.
        out: folder for ``results.json``, ``items.jsonl``, ``config.json``, ``report.md`` and
            ``figures/``.
        n: number of items; default: all.
        seed: selects the items, and the positions of random crops.
        batch_size: questions per batch; affects the cost, not the answers.
        max_new_tokens: maximum length of an answer.
        max_pixels: items whose image has more pixels are left out.
        method_options: options, by method.
        scorer: ``(prediction, record) -> bool``; default: the dataset's own, else exact match of
            normalized words.
        load_options: arguments of ``load_backbone`` (dtype, device, attn_implementation ...).
        overwrite: start over: delete the run in ``out``.
        progress: called after every batch.

    Returns:
        What ``results.json`` holds: ``n``, ``seed``, ``data``, ``models`` (by name), and for a
        single model its ``methods`` at the top as well.

    Raises:
        SdrpnError: another process uses ``out``.
        ConfigError: ``out`` holds a run with other settings; a method lacks what it needs.
        InputError: the data cannot be read, or no item could be answered.
        UnknownNameError: unknown method or dataset.
    """
    for name, value in {"batch_size": batch_size, "max_pixels": max_pixels}.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    state = processes((load_options or {}).get("device"))
    entries = [models] if isinstance(models, (str, Path, BenchModel)) else list(models)
    named = with_names([m if isinstance(m, BenchModel) else BenchModel(m) for m in entries])
    records = read_records(dataset, n=n, seed=seed)
    chosen = _choose_methods(methods, named, _probe(records), method_options or {})
    run = _Run(
        records,
        chosen,
        scorer or find_scorer(dataset),
        ItemStore(Path(out), state.process_index),
        seed,
        batch_size,
        max_new_tokens,
        max_pixels,
    )
    config = {
        "data": records.name,
        "data_fingerprint": records.fingerprint,
        "n": len(records),
        "seed": seed,
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "max_pixels": max_pixels,
        "methods": {name: method.options() for name, method in chosen.items()},
        "models": {str(m.name): {"model": m.origin, "rpn": m.rpn_origin} for m in named},
        "load_options": {key: str(value) for key, value in (load_options or {}).items()},
    }
    with hold_folder(Path(out)) if state.is_main_process else nullcontext():
        if state.is_main_process:
            if overwrite:
                run.store.clear()
            run.store.write_config(config)
        wait_for_everyone(state)
        run.store.write_config(config)
        # Every process must know what was done before any of them adds to it.
        done = run.store.read()
        wait_for_everyone(state)
        for model in named:
            options = dict(load_options or {})
            if state.num_processes > 1 and not options.keys() & {"device", "device_map"}:
                options["device"] = state.device
            _run_model(run, model, options, done, state, progress)
        wait_for_everyone(state)
        if state.is_main_process:
            run.store.merge()
        wait_for_everyone(state)
        results = _results(run, named, config, state.num_processes)
        if state.is_main_process:
            folder = Path(out)
            write_json(folder / RESULTS_NAME, results)
            figures = write_figures(folder, results, run.store.read())
            write_report(folder, results, figures)
        wait_for_everyone(state)
    return results


def _probe(records: RecordSource) -> Record:
    """The first record that can be used: it shows what the data has."""
    return next((record for record in records if record.problem is None), records[0])


def _choose_methods(
    names: Sequence[str] | None,
    models: Sequence[BenchModel],
    sample: Record,
    options: Mapping[str, Mapping[str, Any]],
) -> dict[str, Method]:
    registry = get_plugins().methods
    classes: dict[str, type[Method]] = {}
    for name in names or DEFAULT_METHODS:
        if name in classes:
            raise ConfigError(f"method {name!r} is named twice")
        unmet = _unmet(registry.get(name), models, sample)
        if unmet is None:
            classes[name] = registry.get(name)
        elif names is not None:
            raise ConfigError(f"method {name!r} needs {unmet}")
    if unused := sorted(options.keys() - classes.keys()):
        raise ConfigError(
            f"options for method {unused[0]!r}, which is not compared; compared are: "
            f"{', '.join(classes)}"
        )
    return {name: cls.from_options(options.get(name, {})) for name, cls in classes.items()}


def _unmet(method: type[Method], models: Sequence[BenchModel], sample: Record) -> str | None:
    """What a method needs but does not get, in words; ``None`` if it has everything."""
    if method.needs_rpn:
        for model in models:
            if model.rpn is None:
                return f"an RPN, but model {model.name!r} has none: use PATH=RPN"
    if method.needs_boxes and not sample.boxes:
        return "records with boxes, but the data has none"
    return None


def _run_model(
    run: _Run,
    model: BenchModel,
    load_options: Mapping[str, Any],
    done: Sequence[Row],
    state: PartialState,
    progress: Progress | None,
) -> None:
    """Answer this process's share of the unfinished items."""
    own = [row for row in done if row["model"] == model.name]
    finished = {row["index"] for row in own}
    pending = [i for i in range(len(run.records)) if i not in finished]
    mine = pending[state.process_index :: state.num_processes]
    if not mine and not own:
        return
    backbone, rpn = model.load(**load_options)
    current = fingerprint(backbone, rpn)
    if any(row["fingerprint"] != current for row in own):
        raise ConfigError(
            f"{run.store.folder} holds results of other weights of model {model.name!r}: "
            f"{CONFIG.remedy}"
        )
    context = MethodContext(backbone, rpn, run.seed, run.max_new_tokens)

    def batches() -> Iterator[tuple[list[OpenedItem], list[dict[str, Any]]]]:
        for batch in _chunks(mine, run.batch_size):
            items = [(index, run.records[index]) for index in batch]
            yield open_items(backbone, items, run.scorer, run.max_pixels)

    # On a CPU, opening the next images would take time from the methods that are being measured.
    on_cpu = backbone.device.type == "cpu"
    for number, (opened, rows) in enumerate(batches() if on_cpu else prefetched(batches(), 1)):
        if opened:
            if number == 0:  # the first pass includes one-time setup, which is no method's cost
                measure(context, run.methods, opened[:1], run.scorer)
            rows += measure(context, run.methods, opened, run.scorer, first=number)
        run.store.append({"model": model.name, "fingerprint": current, **row} for row in rows)
        if progress is not None:
            progress(str(model.name), min((number + 1) * run.batch_size, len(mine)), len(mine))


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _results(
    run: _Run, models: Sequence[BenchModel], config: Mapping[str, Any], n_processes: int
) -> dict[str, Any]:
    rows = run.store.read()
    summaries = {}
    for model in models:
        own = [row for row in rows if row["model"] == model.name]
        if len(own) != len(run.records):
            raise InputError(
                f"{run.store.folder}: {len(own)} of {len(run.records)} items of model "
                f"{model.name!r} were found: all processes must share this folder"
            )
        for row in own:
            if lacking := sorted(run.methods.keys() - row.get("methods", run.methods).keys()):
                raise InputError(
                    f"{run.store.folder}: item {row['id']!r} has no result of method "
                    f"{lacking[0]!r}: {CONFIG.remedy}"
                )
        if all("error" in row for row in own):
            raise InputError(f"no item could be answered; the first error: {own[0]['error']}")
        summaries[str(model.name)] = {
            "model": model.origin,
            "rpn": model.rpn_origin,
            **summarize(own, list(run.methods)),
        }
    results = {
        "data": config["data"],
        "data_fingerprint": config["data_fingerprint"],
        "n": len(run.records),
        "seed": run.seed,
        "batch_size": run.batch_size,
        "max_new_tokens": run.max_new_tokens,
        "processes": n_processes,
        "method_options": config["methods"],
        "environment": environment(),
    }
    if len(models) == 1:
        results["methods"] = summaries[str(models[0].name)]["methods"]
    return {**results, "models": summaries}

"""Run the benchmark: every method on every item of the data, for one or more models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_bench.bench_model import BenchModel, fingerprint, with_budgets, with_names
from sdrpn_bench.curve import curves
from sdrpn_bench.data_check import DataFacts, check_data
from sdrpn_bench.defaults import DEFAULT_BATCH_SIZE, DEFAULT_MAX_NEW_TOKENS
from sdrpn_bench.environment import environment
from sdrpn_bench.figures import write_figures
from sdrpn_bench.item_store import CONFIG, ItemStore, Row
from sdrpn_bench.measure import OpenedItem, measure, open_items
from sdrpn_bench.method import Method, MethodContext
from sdrpn_bench.published import TOKENS_KEY, TOTAL_KEY, Published, read_published
from sdrpn_bench.report import write_report
from sdrpn_bench.scoring import MetricChoice, find_metric
from sdrpn_bench.summary import summarize
from sdrpn_bench.sweep import Sweep, base_of
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

    from sdrpn_bench.metrics.metric import Metric
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.preset import Preset
    from sdrpn_core.rpn.model import RPN

logger = logging.getLogger(__name__)


#: The methods that are compared by default, if the model and the data allow them.
DEFAULT_METHODS = ("baseline", "sdrpn", "attention", "random", "oracle")

RESULTS_NAME = "results.json"

Progress = Callable[[str, int, int], None]
"""Called with a model's name, and the number of this process's items: finished, and in total."""


@dataclass(frozen=True)
class Run:
    """Everything that all models share on one dataset; made by :func:`prepare_run`."""

    records: RecordSource
    methods: Mapping[str, Method]
    metric: Metric
    store: ItemStore
    seed: int
    batch_size: int
    max_new_tokens: int
    max_pixels: int
    published: Mapping[str, Published]
    config: Mapping[str, Any]
    total: str | None = None
    loaded: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per model, once it was loaded: its preset, and options of methods that were published."""


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


def named_models(
    models: str | Path | BenchModel | Sequence[str | Path | BenchModel],
    visual_tokens: Sequence[int] = (),
) -> list[BenchModel]:
    """The models under test, with every budget of visual tokens, each with a label of its own.

    Raises:
        ConfigError: no models, two of the same name, or a budget that is not positive.
    """
    entries = [models] if isinstance(models, (str, Path, BenchModel)) else list(models)
    given = [m if isinstance(m, BenchModel) else BenchModel(m) for m in entries]
    return with_names(with_budgets(given, visual_tokens))


def prepare_run(
    models: Sequence[BenchModel],
    methods: Sequence[str] | None,
    records: RecordSource,
    store: ItemStore,
    *,
    seed: int,
    batch_size: int,
    max_new_tokens: int | None,
    max_pixels: int,
    method_options: Mapping[str, Mapping[str, Any]] | None,
    sweeps: Sequence[Sweep],
    metric: MetricChoice | None,
    metric_options: Mapping[str, Any] | None,
    load_options: Mapping[str, Any] | None,
) -> Run:
    """Check everything about a run that needs no model; the arguments are :func:`run_benchmark`'s.

    Raises:
        ConfigError: a setting is out of range, or a method lacks what it needs.
        InputError: no record can be scored.
        UnknownNameError: unknown method or metric.
    """
    sizes = {"batch_size": batch_size, "max_pixels": max_pixels, "max_new_tokens": max_new_tokens}
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    metadata = {} if records.dataset is None else _metadata(records.dataset)
    found_metric = find_metric(metric, records.dataset, metric_options)
    facts = check_data(records, found_metric)
    chosen = _choose_methods(methods, models, facts, method_options or {}, sweeps)
    n_tokens = max_new_tokens or metadata.get(TOKENS_KEY) or DEFAULT_MAX_NEW_TOKENS
    published = read_published(metadata)
    config = {
        "data": records.name,
        "data_fingerprint": records.fingerprint,
        "n": len(records),
        "seed": seed,
        "batch_size": batch_size,
        "max_new_tokens": n_tokens,
        "max_pixels": max_pixels,
        "metric": {"name": found_metric.name, "options": found_metric.options()},
        "methods": {name: method.options() for name, method in chosen.items()},
        "published": {preset: asdict(one) for preset, one in published.items()},
        "models": {
            m.label: {
                "model": m.origin,
                "rpn": m.rpn_origin,
                "visual_tokens": m.visual_tokens,
            }
            for m in models
        },
        "load_options": {key: str(value) for key, value in (load_options or {}).items()},
    }
    return Run(
        records,
        chosen,
        found_metric,
        store,
        seed,
        batch_size,
        n_tokens,
        max_pixels,
        published,
        config,
        metadata.get(TOTAL_KEY),
    )


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
                _Share.of(run, model, rows, state) for run, rows in zip(runs, done, strict=True)
            ]
            if any(share.pending or share.own for share in shares):
                backbone, rpn = model.load(**options)
                for share in shares:
                    _answer(share, backbone, rpn, progress, alone=len(runs) == 1)
                del backbone, rpn
        wait_for_everyone(state)
        return [_finish(run, models, state) for run in runs]


def _finish(run: Run, models: Sequence[BenchModel], state: PartialState) -> dict[str, Any]:
    if state.is_main_process:
        run.store.merge()
    wait_for_everyone(state)
    results = _results(run, models, state.num_processes)
    if state.is_main_process:
        write_json(run.store.folder / RESULTS_NAME, results)
        figures = write_figures(run.store.folder, results, run.store.read())
        write_report(run.store.folder, results, figures)
    wait_for_everyone(state)
    return results


def _metadata(dataset: str) -> Mapping[str, Any]:
    return get_plugins().datasets.entry(dataset).metadata


def _choose_methods(
    names: Sequence[str] | None,
    models: Sequence[BenchModel],
    facts: DataFacts,
    options: Mapping[str, Mapping[str, Any]],
    sweeps: Sequence[Sweep],
) -> dict[str, Method]:
    registry = get_plugins().methods
    classes: dict[str, type[Method]] = {}
    for name in names or DEFAULT_METHODS:
        if name in classes:
            raise ConfigError(f"method {name!r} is named twice")
        unmet = _unmet(registry.get(name), models, facts)
        if unmet is None:
            classes[name] = registry.get(name)
            if classes[name].needs_boxes and facts.n_with_boxes < facts.n:
                logger.warning(
                    "method %r runs on the %d of %d records that have boxes",
                    name,
                    facts.n_with_boxes,
                    facts.n,
                )
        elif names is not None:
            raise ConfigError(f"method {name!r} needs {unmet}")
    if unused := sorted(options.keys() - classes.keys()):
        raise ConfigError(
            f"options for method {unused[0]!r}, which is not compared; compared are: "
            f"{', '.join(classes)}"
        )
    chosen: dict[str, Method] = {}
    for name, cls in classes.items():
        own = options.get(name, {})
        chosen[name] = cls.from_options(own)
        for sweep in sweeps:
            if sweep.method == name:
                variants = sweep.variants(own).items()
                chosen |= {label: cls.from_options(values) for label, values in variants}
    for sweep in sweeps:
        if sweep.method not in chosen:
            raise ConfigError(
                f"a sweep of method {sweep.method!r}, which is not compared; compared are: "
                f"{', '.join(classes)}"
            )
    for name, method in chosen.items():
        if method.follows is not None and method.follows not in chosen:
            raise ConfigError(
                f"method {name!r} depends on the answers of {method.follows!r}: name both"
            )
    return chosen


def _unmet(method: type[Method], models: Sequence[BenchModel], facts: DataFacts) -> str | None:
    """What a method needs but does not get, in words; ``None`` if it has everything."""
    if method.needs_rpn:
        for model in models:
            if model.rpn is None:
                return f"an RPN, but model {model.name!r} has none: use PATH=RPN"
    if method.needs_boxes and not facts.n_with_boxes:
        return "records with boxes, but the data has none"
    return None


@dataclass(frozen=True)
class _Share:
    """What one process has to do for a model.

    Attributes:
        run: the run.
        model: the model.
        own: rows of the model that were done before, by all processes.
        pending: indices of the records that this process is to answer.
    """

    run: Run
    model: BenchModel
    own: Sequence[Row]
    pending: Sequence[int]

    @classmethod
    def of(cls, run: Run, model: BenchModel, done: Sequence[Row], state: PartialState) -> _Share:
        """This process's share of what is unfinished."""
        own = [row for row in done if row["model"] == model.label]
        finished = {row["index"] for row in own}
        pending = [i for i in range(len(run.records)) if i not in finished]
        return cls(run, model, own, pending[state.process_index :: state.num_processes])


def _answer(
    share: _Share, backbone: Backbone, rpn: RPN | None, progress: Progress | None, *, alone: bool
) -> None:
    """Answer a share; ``alone``: the run is the only one."""
    run, model, mine = share.run, share.model, share.pending
    current = fingerprint(backbone, rpn)
    if any(row["fingerprint"] != current for row in share.own):
        raise ConfigError(
            f"{run.store.folder} holds results of other weights of model {model.label!r}: "
            f"{CONFIG.remedy}"
        )
    context = MethodContext(backbone, rpn, run.seed, run.max_new_tokens)
    preset = backbone.find_preset()
    methods = _tuned(run, context, preset)
    run.loaded[model.label] = {
        "preset": None if preset is None else preset.name,
        "published_options": {
            name: _changes(run.methods[name], method)
            for name, method in methods.items()
            if method != run.methods[name]
        },
    }
    refused = _refused(methods, context)
    if len(refused) == len(methods):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ConfigError(f"no method can be offered for model {model.label!r}: {reasons}")
    for name, reason in refused.items():
        logger.warning("model %r: method %r is left out: %s", model.label, name, reason)
        del methods[name]
    marks = {"refused": refused} if refused else {}
    label = model.label if alone else f"{model.label}, {run.records.name}"

    def batches() -> Iterator[tuple[list[OpenedItem], list[dict[str, Any]]]]:
        for batch in _chunks(mine, run.batch_size):
            items = [(index, run.records[index]) for index in batch]
            yield open_items(backbone, items, run.metric, run.max_pixels)

    # On a CPU, opening the next images would take time from the methods that are being measured.
    on_cpu = backbone.device.type == "cpu"
    for number, (opened, rows) in enumerate(batches() if on_cpu else prefetched(batches(), 1)):
        if opened:
            if number == 0:  # the first pass includes one-time setup, which is no method's cost
                measure(context, methods, opened[:1], run.metric)
            rows += measure(context, methods, opened, run.metric, first=number)
        run.store.append(
            {"model": model.label, "fingerprint": current, **marks, **row} for row in rows
        )
        if progress is not None:
            progress(label, min((number + 1) * run.batch_size, len(mine)), len(mine))


def _refused(methods: Mapping[str, Method], context: MethodContext) -> dict[str, str]:
    """The methods that cannot be offered for a model, and why."""
    reasons = {name: method.unserved(context) for name, method in methods.items()}
    found = {name: reason for name, reason in reasons.items() if reason is not None}
    for name, method in methods.items():
        if method.follows in found:
            found.setdefault(name, f"it depends on the answers of {method.follows!r}")
    return found


def _tuned(run: Run, context: MethodContext, preset: Preset | None) -> dict[str, Method]:
    """The methods with the threshold that was published for the model and the dataset, if any."""
    published = run.published.get("" if preset is None else preset.name)
    if published is None or published.threshold is None:
        return dict(run.methods)
    return {name: one.tuned(published.threshold, context) for name, one in run.methods.items()}


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _results(run: Run, models: Sequence[BenchModel], n_processes: int) -> dict[str, Any]:
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
    return {**results, "models": summaries, "curves": curves(summaries, _controls(run))}


def _controls(run: Run) -> set[str]:
    return {base_of(name) for name, method in run.methods.items() if method.is_control}


def _changes(asked: Method, tuned: Method) -> dict[str, Any]:
    """The options in which a tuned method differs from the one that was asked for."""
    before = asked.options()
    return {key: value for key, value in tuned.options().items() if value != before[key]}


def _serves(method: Method, row: Row) -> bool:
    return row.get("regions") is not None or not method.needs_boxes

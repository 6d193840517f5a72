"""What a benchmark run is, and everything about it that can be checked without a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_bench.bench_model import BenchModel, with_budgets, with_names
from sdrpn_bench.data_check import DataFacts, check_data
from sdrpn_bench.defaults import DEFAULT_MAX_NEW_TOKENS
from sdrpn_bench.item_store import ItemStore
from sdrpn_bench.published import TOKENS_KEY, TOTAL_KEY, Published, read_published
from sdrpn_bench.scoring import MetricChoice, find_metric
from sdrpn_core.errors import ConfigError
from sdrpn_core.plugins.manager import get_plugins

if TYPE_CHECKING:
    from sdrpn_bench.method import Method
    from sdrpn_bench.metrics.metric import Metric
    from sdrpn_bench.sweep import Sweep
    from sdrpn_core.data.record import RecordSource

logger = logging.getLogger(__name__)

#: The methods that are compared by default, if the model and the data allow them.
DEFAULT_METHODS = ("baseline", "sdrpn", "attention", "random", "oracle")


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
    """What a method needs but gets of no model, in words; ``None`` if some can be served."""
    if method.needs_rpn and all(model.rpn is None for model in models):
        named = ", ".join(f"{model.name!r}" for model in models)
        return f"an RPN, but none is given for {named}: use PATH=RPN"
    if method.needs_boxes and not facts.n_with_boxes:
        return "records with boxes, but the data has none"
    return None

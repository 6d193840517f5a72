"""What a benchmark run is, and everything about it that can be checked without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_bench.bench_model import BenchModel, with_budgets
from sdrpn_bench.data_check import check_data
from sdrpn_bench.defaults import DEFAULT_MAX_NEW_TOKENS
from sdrpn_bench.item_store import ItemStore
from sdrpn_bench.method_choice import choose_methods
from sdrpn_bench.model_names import with_names
from sdrpn_bench.published import TOKENS_KEY, TOTAL_KEY, Published, read_published
from sdrpn_bench.scoring import MetricChoice, find_metric
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.util.whole_numbers import check_count, check_counts

if TYPE_CHECKING:
    from sdrpn_bench.method import Method
    from sdrpn_bench.metrics.metric import Metric
    from sdrpn_bench.sweep import Sweep
    from sdrpn_core.data.record import RecordSource


@dataclass(frozen=True)
class Run:
    """Everything that all models share on one dataset; made by :func:`prepare_run`.

    Attributes:
        records: the questions.
        methods: by name, variants of sweeps among them.
        metric: scores the answers, from 0 to 1.
        store: the folder of the run.
        seed: selects the questions, and the positions of random crops.
        batch_size: questions per batch.
        max_new_tokens: maximum length of an answer.
        max_pixels: questions whose image has more pixels are left out.
        published: by preset, what was published for the dataset.
        config: what must not change when the run is continued, as plain JSON values.
        total: the total of the metric that papers report for the dataset; ``None``: the mean score.
        loaded: by model, filled once it is loaded: its preset, and options of methods that were
            published for it.
    """

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


def named_models(
    models: str | Path | BenchModel | Sequence[str | Path | BenchModel],
    visual_tokens: Sequence[int] = (),
) -> list[BenchModel]:
    """The models under test, with every budget of visual tokens, each with a label of its own.

    Raises:
        ConfigError: no models, one that is given twice, two of the same name, or a
            budget that is not positive.
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
    check_counts(batch_size=batch_size, max_pixels=max_pixels)
    if max_new_tokens is not None:
        check_count(max_new_tokens, "max_new_tokens")
    metadata = {} if records.dataset is None else _metadata(records.dataset)
    found_metric = find_metric(metric, records.dataset, metric_options)
    facts = check_data(records, found_metric)
    chosen = choose_methods(methods, models, facts, method_options or {}, sweeps)
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

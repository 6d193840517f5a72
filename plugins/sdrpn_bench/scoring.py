"""Score answers with the metric of a run: the one asked for, the dataset's, or exact match."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from sdrpn_bench.metrics.metric import Metric
from sdrpn_core.errors import ConfigError, PluginError, UnknownNameError
from sdrpn_core.plugins.manager import get_plugins

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

Scorer = Callable[[str, "Record"], float]
"""``(prediction, record) -> score``, from 0 to 1, or a bool."""

MetricChoice = str | Metric | Scorer
"""A registered name, a metric with its options, or a function."""

#: Metadata key under which a dataset names its metric.
METRIC_KEY = "metric"
DEFAULT_METRIC = "exact_match"


@dataclass(frozen=True)
class CallableMetric(Metric):
    """A function of prediction and record; it also decides what a record needs.

    Attributes:
        function: see :data:`Scorer`.
        name: of the function.
    """

    function: Scorer
    name: str  # type: ignore[misc]  # a class variable elsewhere

    def check(self, record: Record) -> None:
        """Accept any record."""

    def score(self, prediction: str, record: Record) -> float:
        """Score by the function."""
        return self.function(prediction, record)

    def options(self) -> dict[str, Any]:
        """Return none: the name says all that is known of a function."""
        return {}


def find_metric(
    chosen: MetricChoice | None, dataset: str | None, options: Mapping[str, Any] | None = None
) -> Metric:
    """Find the metric of a run.

    Args:
        chosen: the metric; ``None``: that of the dataset if it is registered with one, else
            :data:`DEFAULT_METRIC`.
        dataset: the registered dataset that the run reads, if any.
        options: of a metric that is chosen by name.

    Raises:
        UnknownNameError: no such metric.
        ConfigError: unknown option, or options without a name.
        PluginError: the metric cannot be imported, or the dataset names one that is unknown; names
            the plugin at fault.
    """
    if isinstance(chosen, str):
        metric: Metric = get_plugins().metrics.get(chosen).from_options(options or {})
        return metric
    if options:
        raise ConfigError("options of a metric need its name: --metric NAME")
    if chosen is None:
        return _metric_of(dataset)
    if isinstance(chosen, Metric):
        return chosen
    return CallableMetric(function=chosen, name=_name(chosen))


def score(metric: Metric, prediction: str, record: Record) -> float:
    """Score a prediction, as a float from 0 to 1.

    Raises:
        ConfigError: the metric gives anything else.
    """
    value = metric.score(prediction, record)
    # NumPy's booleans and numbers are no Real of Python's, but have items.
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, Real) or not 0 <= float(plain) <= 1:
        raise ConfigError(
            f"metric {metric.name!r} must score from 0 to 1; it gives {plain!r} for record "
            f"{record.id!r}"
        )
    # A float that is rounded to 1 would count as right.
    return float(plain) if plain == 1 else min(float(plain), math.nextafter(1.0, 0.0))


def _metric_of(dataset: str | None) -> Metric:
    plugins = get_plugins()
    name, origin = DEFAULT_METRIC, None
    if dataset is not None:
        entry = plugins.datasets.entry(dataset)
        if METRIC_KEY in entry.metadata:
            name, origin = str(entry.metadata[METRIC_KEY]), entry.origin
    try:
        metric: Metric = plugins.metrics.get(name).from_options({})
    except UnknownNameError as error:
        if origin is None:
            raise
        raise PluginError(origin, f"dataset {dataset!r} names its metric: {error}") from error
    return metric


def _name(function: Scorer) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))

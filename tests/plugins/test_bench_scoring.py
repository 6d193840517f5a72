"""Which metric a run scores by, and what a score may be."""

from __future__ import annotations

import math
import types
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest

from sdrpn_bench.metrics.anls import ANLS
from sdrpn_bench.metrics.exact_match import ExactMatch
from sdrpn_bench.metrics.metric import Metric
from sdrpn_bench.scoring import find_metric, score
from sdrpn_core import hookimpl
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError, PluginError, UnknownNameError

RECORD = Record("7", (), "q", answers=("red",))


@dataclass(frozen=True)
class Length(Metric):
    """A third party's metric."""

    name: ClassVar[str] = "length"

    longest: int = 10

    def score(self, prediction, record):
        return min(1.0, len(prediction) / self.longest)


def register(plugins, **metadata):
    @hookimpl
    def sdrpn_register_metrics(registry):
        registry.add("length", Length, help="longer is better")

    @hookimpl
    def sdrpn_register_datasets(registry):
        registry.add("mine", lambda n, seed: [], **metadata)

    plugin = types.ModuleType("mine")
    plugin.SDRPN_API = 1
    plugin.sdrpn_register_metrics = sdrpn_register_metrics
    plugin.sdrpn_register_datasets = sdrpn_register_datasets
    plugins.register(plugin, "mine")


def lenient(prediction: str, record: Record) -> bool:
    return True


def test_a_dataset_names_its_metric(fresh_plugins):
    register(fresh_plugins, metric="length")
    assert find_metric(None, "mine") == Length()
    assert find_metric("anls", "mine") == ANLS()


def test_a_metric_is_named_given_or_a_function(fresh_plugins):
    register(fresh_plugins)
    assert find_metric("length", "mine", {"longest": 3}) == Length(3)
    assert find_metric(Length(4), "mine") == Length(4)
    found = find_metric(lenient, "mine")
    assert (found.name, found.options()) == ("lenient", {})
    found.check(Record("8", (), "q"))
    assert score(found, "x", RECORD) == 1


def test_a_dataset_with_an_unknown_metric_is_its_plugins_fault(fresh_plugins):
    register(fresh_plugins, metric="lenght")
    with pytest.raises(PluginError, match=r"plugin 'mine'.*'mine' names its metric.*'length'"):
        find_metric(None, "mine")


def test_wrong_names_and_options_are_refused(fresh_plugins):
    register(fresh_plugins)
    with pytest.raises(UnknownNameError, match=r"unknown metric 'anl'.*anls"):
        find_metric("anl", "mine")
    with pytest.raises(ConfigError, match="did you mean 'threshold'"):
        find_metric("anls", "mine", {"treshold": 1})
    with pytest.raises(ConfigError, match="--metric NAME"):
        find_metric(None, "mine", {"threshold": 1})


def test_without_one_words_are_compared(fresh_plugins):
    register(fresh_plugins)
    for dataset in ("mine", None):
        assert find_metric(None, dataset) == ExactMatch()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, 1), (False, 0), (1, 1), (0.3, 0.3), (np.float32(0.5), 0.5), (np.bool_(True), 1)],
)
def test_a_score_is_a_float_from_0_to_1(value, expected):
    found = score(find_metric(lambda p, r: value, None), "", RECORD)
    assert type(found) is float
    assert found == expected


@pytest.mark.parametrize("value", [1.001, -0.1, math.nan, None, "1", 2, [1]])
def test_whatever_else_a_function_gives_ends_the_run(value):
    with pytest.raises(ConfigError, match=r"must score from 0 to 1; it gives .* record '7'"):
        score(find_metric(lambda p, r: value, None), "", RECORD)


def test_a_fraction_is_never_rounded_up_to_1():
    nearly = Fraction(10**20 - 1, 10**20)
    assert float(nearly) == 1
    assert score(find_metric(lambda p, r: nearly, None), "", RECORD) < 1

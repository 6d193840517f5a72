"""What counts as right, and how a dataset brings its own rule."""

from __future__ import annotations

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdrpn_bench.scoring import exact_match, find_scorer, normalize
from sdrpn_core import hookimpl
from sdrpn_core.data.record import Record
from sdrpn_core.errors import InputError, PluginError


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("Red.", "red", True),
        ("  red   blue\n", "Red, blue!", True),
        ("ＲＥＤ", "red", True),  # full-width letters
        ("STRASSE", "straße", True),
        ("3.5", "35", False),
        ("3.5", "3.5", True),
        ("red", "reddish", False),
        ("", "red", False),
        ("+", "-", False),
        ("?", "?", True),
    ],
)
def test_exact_match(prediction, answer, right):
    assert exact_match(prediction, Record("1", None, "q", answers=(answer,))) is right


@given(st.text(max_size=40))
def test_normalizing_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)


@given(st.text(max_size=40))
def test_case_and_outer_space_never_matter(text):
    assert normalize(f"  {text}\t") == normalize(text)


def test_a_record_without_answer_cannot_be_scored():
    with pytest.raises(InputError, match="'7' has no answer"):
        exact_match("x", Record("7", None, "q"))


def register(plugins, **metadata):
    @hookimpl
    def sdrpn_register_datasets(registry):
        registry.add("mine", lambda n, seed: [], **metadata)

    plugin = types.ModuleType("mine")
    plugin.SDRPN_API = 1
    plugin.sdrpn_register_datasets = sdrpn_register_datasets
    plugins.register(plugin, "mine")


def lenient(prediction: str, record: Record) -> bool:
    return True


def test_a_dataset_brings_its_scorer(fresh_plugins):
    register(fresh_plugins, scorer="sdrpn_bench.scoring:normalize")
    assert find_scorer("mine") is normalize


def test_a_scorer_may_be_an_object(fresh_plugins):
    register(fresh_plugins, scorer=lenient)
    assert find_scorer("mine") is lenient


@pytest.mark.parametrize("target", ["no_such_module:x", "sdrpn_bench.scoring:no_such", ":", ""])
def test_a_broken_scorer_names_the_plugin(fresh_plugins, target):
    register(fresh_plugins, scorer=target)
    with pytest.raises(PluginError, match=r"plugin 'mine'.*scorer"):
        find_scorer("mine")


def test_without_one_words_are_compared(fresh_plugins):
    register(fresh_plugins)
    for dataset in ("mine", "file.jsonl", [Record("1", None, "q")]):
        assert find_scorer(dataset) is exact_match

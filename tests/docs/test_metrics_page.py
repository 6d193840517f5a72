"""The pages on metrics and on lmms-eval: their tables and examples."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

from sdrpn_bench.scoring import find_metric
from sdrpn_core import Record
from sdrpn_core.plugins.manager import Plugins, get_plugins
from sdrpn_lmms_eval.session import ModelArguments
from tests.docs.fences import ROOT, run_blocks
from tests.peers.metric_table import read_table

METRICS, LMMS_EVAL = "docs/metrics.md", "docs/lmms_eval.md"


def first_cells(page: str, header: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    _, found, rest = (ROOT / page).read_text(encoding="utf-8").partition(header)
    assert found, f"{page} has no table {header}"
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_every_metric_is_listed_with_its_options() -> None:
    rows = first_cells(METRICS, "| metric | score of an answer |")
    assert {name.strip("`") for name in rows} == set(get_plugins().metrics.names())
    for name, cells in rows.items():
        options = find_metric(name.strip("`"), []).options()
        listed = dict(re.findall(r"`(\w+)` = (\S+)", cells[-1]))
        assert listed == {key: str(value).lower() for key, value in options.items()}


def test_the_number_of_committed_pairs_is_the_pages() -> None:
    text = (ROOT / METRICS).read_text(encoding="utf-8")
    assert f"scores that they gave for {len(read_table())} pairs" in " ".join(text.split())


def test_a_metric_of_your_own_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_plugins: Plugins
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_blocks(METRICS, {})
    results = names["results"]
    assert results["metric"] == {"name": "first_word", "options": {}}
    assert results["methods"]["sdrpn"]["accuracy"] == 1  # the color that the question names

    plugin = ModuleType("theirs")
    vars(plugin).update(SDRPN_API=1, sdrpn_register_metrics=names["sdrpn_register_metrics"])
    fresh_plugins.register(plugin, "theirs")
    metric = find_metric("first_words", None, {"n_words": 2})
    record = Record("r", (), "what ?", answers="dark red")
    assert [metric.score(text, record) for text in ("dark red dot", "dark blue")] == [1, 0]


def test_every_model_argument_is_listed() -> None:
    rows = first_cells(LMMS_EVAL, "| `--model_args` |")
    listed = [name for cell in rows for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(listed) == sorted(field.name for field in fields(ModelArguments))

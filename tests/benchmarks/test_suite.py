"""Every benchmark is listed, says how it is used, and prints the columns that the page shows."""

from __future__ import annotations

import pytest
from suite import HERE, SCRIPTS

from tests.benchmarks.quick_runs import on_linux, quick_rows

#: Each takes 10 to 20 s, and most measure alike.
IN_EVERY_SUITE = ("startup",)

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)


def test_no_script_is_forgotten():
    measuring = {
        path.stem for path in HERE.glob("*.py") if "\nBENCHMARK = " in path.read_text("utf-8")
    }
    assert sorted(script.name for script in SCRIPTS) == sorted(measuring)


@each_script
def test_the_docstring_says_what_is_measured_and_how_it_is_used(script):
    assert script.summary.endswith(".")
    out = " [--out FOLDER]" if script.plot else ""
    assert f"\n    python benchmarks/{script.name}.py [--quick]{out}\n" in script.docstring
    assert "ull size takes" in script.docstring


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(script, marks=() if script.name in IN_EVERY_SUITE else pytest.mark.long)
        for script in SCRIPTS
    ],
    ids=lambda script: script.name,
)
def test_a_quick_run_prints_what_the_page_shows(script):
    rows = quick_rows(script.name)
    assert {row["benchmark"] for row in rows} == {table.benchmark for table in script.tables}
    for table in script.tables:
        keys = [set(row) for row in rows if row["benchmark"] == table.benchmark]
        assert set(table.columns) <= set().union(*keys)


@pytest.mark.slow
def test_help_starts_without_torch():
    rows = {row["case"]: row for row in quick_rows("startup")}
    assert rows["torch, transformers"]["imports_torch"]
    for case in ("sdrpn --help", "sdrpn --version", "sdrpn plugins", "sdrpn ask --help"):
        assert not rows[case]["imports_torch"]
        assert not rows[case]["imports_transformers"]


@pytest.mark.long
@on_linux
def test_training_is_compared_with_the_whole_model():
    rows = quick_rows("train_cost")
    assert [row["case"] for row in rows] == ["whole model", "sdrpn", "sdrpn, cached"]
    assert {row["benchmark"] for row in rows} == {"train_cost"}
    assert (rows[0]["ratio"], rows[0]["memory_ratio"]) == (1.0, 1.0)
    assert all(row["step_seconds"] > 0 and row["peak_memory_bytes"] > 0 for row in rows)

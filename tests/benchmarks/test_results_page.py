"""The page of results says what the rows say, when they were measured, and on what."""

from __future__ import annotations

import pytest
from result_files import Result, RunFacts, read_result, write_result
from results_page import cell, results_page
from suite import Script, Table

MACHINE = {"CPU": "Abacus 3", "torch": "9.9"}
TABLE = Table("cost", {"case": "case", "ratio": "time / baseline", "n_bytes": "memory"})
ROWS = [
    {"benchmark": "cost", "case": "a", "ratio": 1.23456, "n_bytes": 12_345_678, "hidden": 7},
    {"benchmark": "cost", "case": "b", "ratio": 0.5},
]


@pytest.fixture
def script(tmp_path):
    def named(name, plot=None):
        (tmp_path / f"{name}.py").write_text(f'"""What {name} costs.\n\nAt length.\n"""\n')
        return Script(name, (TABLE,), plot, folder=tmp_path)

    return named


def result(started="2030-01-02T03:04:05+00:00", quick=False, machine=MACHINE):
    return Result(RunFacts(started, quick, 12.3, machine), ROWS)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, "1.00"),
        (0.123456, "0.123"),
        (0.0000123456, "0.0000123"),
        (99.96, "100"),
        (0.9999, "1.00"),
        (123.4, "123"),
        (1234.5, "1,230"),
        (-2.345, "-2.35"),
        (0.0, "0"),
        (float("nan"), "nan"),
        (1234567, "1234567"),
        (True, "yes"),
        (False, "no"),
        (None, "–"),
        ("text", "text"),
    ],
)
def test_floats_have_three_significant_digits(value, shown):
    assert cell(value) == shown


def test_a_section_has_the_chosen_columns(script):
    page = results_page([script("reading")], {"reading": result()})
    assert "| CPU | Abacus 3 |\n| torch | 9.9 |" in page
    assert "## reading\n\nWhat reading costs.\n\n`reading.py`, 2030-01-02, 12 s.\n" in page
    assert (
        "| case | time / baseline | memory |\n"
        "| --- | --- | --- |\n"
        "| a | 1.23 | 12.3 MB |\n"
        "| b | 0.500 | – |\n"
    ) in page
    assert "hidden" not in page
    assert "uick" not in page


def test_quick_figures_are_said_to_be_quick(script):
    assert "Quick sizes" in results_page([script("reading")], {"reading": result(quick=True)})


def test_a_script_without_results_gets_no_table(script):
    page = results_page([script("reading"), script("writing")], {"writing": result()})
    missing, _, _ = page.partition("## reading")[2].partition("## writing")
    assert "No results" in missing
    assert "|" not in missing
    assert "What sdrpn costs" in results_page([script("reading")], {})


def test_the_head_is_the_latest_machine_and_others_say_how_they_differ(script):
    older = result(started="2029-12-31T00:00:00+00:00", machine={**MACHINE, "torch": "8.0"})
    page = results_page(
        [script("reading"), script("writing")], {"reading": older, "writing": result()}
    )
    assert "| torch | 9.9 |" in page
    assert page.count("Not on the machine above: torch 8.0.") == 1


def test_the_plot_is_shown(script):
    page = results_page([script("reading", plot="reading.png")], {"reading": result()})
    assert "![reading](results/reading.png)" in page


def test_results_are_read_as_written(tmp_path):
    assert read_result(tmp_path / "none.jsonl") is None
    write_result(tmp_path / "some.jsonl", result())
    assert read_result(tmp_path / "some.jsonl") == result()

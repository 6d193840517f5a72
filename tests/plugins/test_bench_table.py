"""The table of results in a terminal."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from sdrpn_bench.folded_name import FoldedName
from sdrpn_bench.results_table import results_table
from sdrpn_bench.suite_table import suite_tables

#: As wide as numbers get.
WIDEST = {
    "n": 300,
    "accuracy": 1.0,
    "interval": (0.987, 1.0),
    "visual_tokens": 16384.0,
    "time_ratio": 12.35,
    "cost_ratio": 24.68,
    "difference": {"value": -0.863, "interval": (-0.894, -0.812)},
}
NAMES = ["sdrpn", "a_method_with_a_long_name[threshold=0.35]", "sdrpn[threshold=0.05]"]


def results(**n_skipped):
    """Of runs on 300 items, by model."""
    models = {
        name: {"n": 300 - n, "skipped": {"n": n}, "methods": {}} for name, n in n_skipped.items()
    }
    return {
        "data": "glyphs/small",
        "metric": {"name": "exact_match"},
        "n": 300,
        "seed": 0,
        "models": models,
    }


def shown(what, width=80):
    console = Console(width=width)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def test_no_number_is_cut_short_in_80_columns():
    found = results(llava=0)
    found["models"]["llava"]["methods"] = dict.fromkeys(NAMES, WIDEST)
    text = shown(results_table(found))
    assert "…" not in text
    for number in ("100.0% [98.7, 100.0]", "-86.3 [-89.4, -81.2]", "16384", "12.35x", "24.68x"):
        assert text.count(number) == len(NAMES)
    numbers = re.compile(r"\s+100\.0%.*")
    folded = "".join(numbers.sub("", line).strip() for line in text.splitlines())
    for name in NAMES:
        assert name in folded
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["sdrpn", "[threshold=0.05]"]


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("sdrpn[threshold=0.05]", 40, ["sdrpn[threshold=0.05]"]),
        ("sdrpn[threshold=0.05]", 18, ["sdrpn", "[threshold=0.05]"]),
        ("sdrpn[threshold=0.05]", 12, ["sdrpn", "[threshold", "=0.05]"]),
        ("vicrop_grad_att[side=1]", 18, ["vicrop_grad_att", "[side=1]"]),
        ("vicrop_grad_att", 12, ["vicrop_", "grad_att"]),
        ("oracle (n = 5)", 12, ["oracle", "(n = 5)"]),
        ("unbreakable_long_name", 8, ["unbrea", "kable_", "long_", "name"]),
    ],
)
def test_a_name_is_broken_between_its_parts(name, width, lines):
    folded = FoldedName(name, indent=2)
    assert [line.rstrip() for line in shown(folded, width).splitlines()] == [
        f"  {x}" for x in lines
    ]


def test_a_name_is_whole_where_there_is_room():
    found = results(llava=0)
    found["models"]["llava"]["methods"] = dict.fromkeys(NAMES, WIDEST)
    for name in NAMES:
        assert f" {name} " in shown(results_table(found), 130)


@pytest.mark.parametrize(
    ("n_skipped", "says"),
    [
        ({"one": 0}, "n = 300, seed"),
        ({"one": 3, "two": 3}, "n = 297, 3 of 300 skipped, seed"),
        ({"one": 3, "two": 0}, "n = 297 to 300, 0 to 3 of 300 skipped, seed"),
    ],
)
def test_the_title_says_how_many_were_scored(n_skipped, says):
    title = " ".join(shown(results_table(results(**n_skipped)), 200).split())
    assert title.startswith(f"glyphs/small, exact_match, {says}")


def dataset(total=None, **scores):
    """Results of the method ``sdrpn`` on a dataset, by model, and what was published."""
    f1 = {"value": 0.75, "interval": (0.7, 0.8)}
    return {
        "metric": {"name": "exact_match"},
        "total": total,
        "published": {"preset": {"scores": {"sdrpn": 50.0}}},
        "models": {
            name: {
                "preset": "preset" if name == "known" else None,
                "methods": {NAMES[-1]: {**WIDEST, "totals": {}}, "sdrpn": score},
            }
            for name, score in (
                (name, {"accuracy": score, "interval": (0.1, 0.9), "totals": {"f1": f1}})
                for name, score in scores.items()
            )
        },
    }


def test_several_datasets_have_one_table_with_intervals():
    found = {"textvqa": dataset(known=0.25, other=0.5), "pope": dataset("f1", known=0, other=0)}
    (table,) = suite_tables(found, 80)
    lines = [" ".join(line.split()) for line in shown(table).splitlines()]
    assert lines[:2] == ["percent [95%], by dataset", "method textvqa (exact_match) pope (f1)"]
    assert lines[3:] == [
        "known",
        "sdrpn[threshold=0.05] 100.0 [98.7, 100.0] 100.0 [98.7, 100.0]",
        "sdrpn 25.0 [10.0, 90.0] 75.0 [70.0, 80.0]",
        "published 50.0 50.0",
        "",
        "other",
        "sdrpn[threshold=0.05] 100.0 [98.7, 100.0] 100.0 [98.7, 100.0]",
        "sdrpn 50.0 [10.0, 90.0] 75.0 [70.0, 80.0]",
    ]


def test_datasets_that_find_no_room_are_in_another_table():
    found = {f"dataset_{i}": dataset(known=0.25) for i in range(7)}
    tables = list(suite_tables(found, 80))
    texts = [shown(table) for table in tables]
    assert [text.count("25.0 [10.0, 90.0]") for text in texts] == [3, 3, 1]
    assert all("…" not in text for text in texts)
    assert all(f"dataset_{i}" in " ".join(texts) for i in range(7))
    assert len(list(suite_tables(found, 20))) == 7

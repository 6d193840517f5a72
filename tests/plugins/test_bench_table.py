"""The table of results in a terminal."""

from __future__ import annotations

import re

from rich.console import Console

from sdrpn_bench.results_table import results_table

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
NAMES = ["sdrpn", "a_method_with_a_long_name[threshold=0.35]"]


def test_no_number_is_cut_short_in_80_columns():
    model = {"n": 300, "methods": dict.fromkeys(NAMES, WIDEST)}
    results = {
        "data": "glyphs/small",
        "metric": {"name": "exact_match"},
        "n": 300,
        "seed": 0,
        "models": {"llava": model},
    }
    console = Console(width=80)
    with console.capture() as captured:
        console.print(results_table(results))
    text = captured.get()
    assert "…" not in text
    for number in ("100.0% [98.7, 100.0]", "-86.3 [-89.4, -81.2]", "16384", "12.35x", "24.68x"):
        assert text.count(number) == len(NAMES)
    numbers = re.compile(r"\s+100\.0%.*")
    folded = "".join(numbers.sub("", line).strip() for line in text.splitlines())
    for name in NAMES:
        assert name in folded

"""``benchmarks/train_cost.py`` measures what it promises."""

from __future__ import annotations

import pytest

from tests.benchmarks.quick_runs import on_linux, quick_rows


@pytest.mark.slow
@on_linux
def test_a_quick_run_prints_a_line_per_case():
    rows = quick_rows("train_cost")
    assert [row["case"] for row in rows] == ["whole model", "sdrpn", "sdrpn, cached"]
    assert {row["benchmark"] for row in rows} == {"train_cost"}
    assert (rows[0]["ratio"], rows[0]["memory_ratio"]) == (1.0, 1.0)
    assert all(row["step_seconds"] > 0 and row["peak_memory_bytes"] > 0 for row in rows)

"""``benchmarks/train_cost.py`` runs alone and prints what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train_cost.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux tells it")
def test_a_quick_run_prints_a_line_per_case():
    words = [sys.executable, str(SCRIPT), "--quick"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["case"] for row in rows] == ["whole model", "sdrpn", "sdrpn, cached"]
    assert {row["benchmark"] for row in rows} == {"train_cost"}
    assert (rows[0]["ratio"], rows[0]["memory_ratio"]) == (1.0, 1.0)
    assert all(row["step_seconds"] > 0 and row["peak_memory_bytes"] > 0 for row in rows)

"""Hostile inputs through the API: read correctly or refused in one line, in time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.environments import ROOT

MAX_RESIDENT_MIB = 3000


def battery(count: int, seed: int) -> dict[str, int]:
    """Run the battery in a process of its own, whose memory is limited."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.hostile_inputs", f"--count={count}", f"--seed={seed}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-8000:] or done.stdout[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(figures))
    return figures


def check(figures: dict[str, int], count: int) -> None:
    assert figures["inputs"] == count
    assert figures["tracebacks"] == 0
    assert figures["read"] > count // 20  # the generator knows more than what is refused
    assert figures["refused"] > count // 4
    assert figures["peak_mib"] < MAX_RESIDENT_MIB


def test_a_few_hostile_inputs():
    check(battery(280, seed=0), 280)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_hostile_inputs(seed):
    check(battery(2000, seed), 2000)

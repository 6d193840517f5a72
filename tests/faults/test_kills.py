"""Whatever ends a run, its successor arrives where an undisturbed run does: see ``kills.py``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SHORT_KILLS = 3
KILLS = 120
MAX_SECONDS = 3000


def campaign(*options: str) -> dict[str, object]:
    words = [sys.executable, "-m", "tests.faults.kills", *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=MAX_SECONDS)
    assert done.returncode in (0, 1), done.stderr
    figures = json.loads(done.stdout)
    print(done.stdout)
    return figures


def test_a_few_kills_lose_nothing():
    figures = campaign("--kills", str(SHORT_KILLS), "--commands", "label", "--seed", "1")
    assert figures["clean"], figures
    assert figures["kills"] >= SHORT_KILLS


@pytest.mark.faults
@pytest.mark.parametrize("seed", [0, 1])
def test_kills_lose_nothing(seed):
    figures = campaign("--kills", str(KILLS), "--seed", str(seed))
    assert figures["clean"], figures
    assert figures["kills"] >= KILLS

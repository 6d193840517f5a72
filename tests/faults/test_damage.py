"""A damaged file is refused by name, or does no harm: see ``damage.py``."""

from __future__ import annotations

import json

import pytest

from tests.faults.damage import battery

SHORT_DAMAGES = 60
DAMAGES = 1000


@pytest.mark.parametrize("n", [SHORT_DAMAGES, pytest.param(DAMAGES, marks=pytest.mark.faults)])
def test_damage_is_never_silent(tmp_path, n):
    figures = battery(n, 0, tmp_path)
    print(json.dumps(vars(figures), indent=2))
    assert not figures.wrong
    assert not figures.raw_errors
    assert sum(figures.refused.values()) > n // 2

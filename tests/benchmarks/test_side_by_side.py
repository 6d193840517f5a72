"""Cases are timed in turns, and compared within a round."""

from __future__ import annotations

import json

import pytest
from side_by_side import Times, in_turns, print_row


@pytest.mark.parametrize(("warm_up", "before"), [(True, "ab"), (False, "")])
def test_every_other_round_goes_backwards(warm_up, before):
    called = []
    cases = {name: lambda name=name: called.append(name) for name in "ab"}
    times = in_turns(cases, 3, warm_up=warm_up)
    assert "".join(called) == before + "ab" + "ba" + "ab"
    assert {case: len(seconds) for case, seconds in times.seconds.items()} == {"a": 3, "b": 3}


def test_ratios_are_taken_within_a_round():
    # The second round is slow for both; medians over all rounds would give 1.5.
    times = Times({"one": [2.0, 20.0, 3.0], "other": [1.0, 10.0, 2.0]})
    assert times.median("one") == 3.0
    assert times.ratio("one", "other") == 2.0
    assert times.ratio("one", "one") == 1.0


def test_a_row_is_one_line_with_rounded_floats(capsys):
    print_row("some", case="a", seconds=1 / 3, n=12345678)
    assert json.loads(capsys.readouterr().out) == {
        "benchmark": "some",
        "case": "a",
        "seconds": 0.3333,
        "n": 12345678,
    }

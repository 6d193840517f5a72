"""Cases are timed in turns, and compared within a round."""

from __future__ import annotations

import json

import pytest
from side_by_side import Times, in_turns, print_row


@pytest.mark.parametrize("warm_up", [True, False])
def test_every_round_runs_each_case_once_in_an_order_of_its_own(warm_up):
    called = []
    cases = {name: lambda name=name: called.append(name) for name in "abcd"}
    times = in_turns(cases, 20, warm_up=warm_up)
    rounds = ["".join(called[i : i + 4]) for i in range(0, len(called), 4)]
    assert len(rounds) == 20 + warm_up
    assert {"".join(sorted(one)) for one in rounds} == {"abcd"}
    timed = rounds[warm_up:]
    assert {one[0] for one in timed} == {one[-1] for one in timed} == set("abcd")
    assert {len(seconds) for seconds in times.seconds.values()} == {20}


def test_ratios_are_taken_within_a_round():
    # The second round is slow for both; medians over all rounds would give 1.5.
    times = Times({"one": [2.0, 20.0, 3.0], "other": [1.0, 10.0, 2.0]})
    assert times.median("one") == 3.0
    assert times.ratio("one", "other") == 2.0
    assert times.ratio("one", "one") == 1.0


def test_the_spread_is_that_of_the_ratios():
    times = Times({"one": [1.0, 20.0, 3.0, 4.0, 5.0], "other": [1.0, 10.0, 1.0, 1.0, 1.0]})
    assert times.spread("one", "other") == "2.00 to 4.00"
    assert Times({"one": [1.0]}).spread("one", "one") == "one round"


def test_a_row_is_one_line_with_rounded_floats(capsys):
    print_row("some", case="a", seconds=1 / 3, n=12345678)
    assert json.loads(capsys.readouterr().out) == {
        "benchmark": "some",
        "case": "a",
        "seconds": 0.3333,
        "n": 12345678,
    }

"""Our metrics against the functions of lmms-eval, which run in their own environment."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from sdrpn_bench.scoring import find_metric, score
from tests.peers.environment import their_scores
from tests.peers.metric_pairs import GENERATORS, pairs
from tests.peers.metric_table import read_table, scored_pairs

pytestmark = pytest.mark.peers

N_PAIRS = 2000
N_LISTS = 300


@pytest.mark.parametrize("name", GENERATORS)
def test_a_metric_scores_as_lmms_eval_does(name):
    metric = find_metric(name, [])
    drawn = pairs(name, N_PAIRS)
    ours = [score(metric, pair.prediction, pair.record) for pair in drawn]
    expected = their_scores([asdict(pair) for pair in drawn])
    for pair, own, other in zip(drawn, ours, expected, strict=True):
        assert own == pytest.approx(other, abs=1e-12), pair
    # Pairs that are all right or all wrong would show nothing.
    assert 0.15 < np.mean(expected) < 0.85
    print(f"\n{name}: equal on {N_PAIRS} pairs, mean score {np.mean(expected):.3f}")


def test_totals_are_those_of_lmms_eval():
    metric = find_metric("yes_no", [])
    lists = [pairs("yes_no", 1 + seed, seed) for seed in range(N_LISTS)]
    expected = their_scores([[asdict(pair) for pair in one] for one in lists], "--totals")
    for drawn, totals in zip(lists, expected, strict=True):
        scores = [metric.score(pair.prediction, pair.record) for pair in drawn]
        counts = [metric.counts(pair.prediction, pair.record) for pair in drawn]
        sums = {name: np.sum([item[name] for item in counts]) for name in counts[0]}
        found = {"accuracy": np.mean(scores), **metric.aggregate(sums)}
        assert {name: float(value) for name, value in found.items()} == pytest.approx(totals)


def test_the_committed_table_holds_their_scores():
    assert [{**asdict(pair), "score": expected} for pair, expected in read_table()] == (
        scored_pairs()
    )

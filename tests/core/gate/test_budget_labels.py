"""The rule for labels where several answers are correct; the published cases are golden data."""

from __future__ import annotations

import random

import pytest

from sdrpn_core.errors import InputError
from sdrpn_core.gate.budget_labels import AnswerLadder, Difficulty
from sdrpn_core.labels.pseudo import IGNORE

BUDGETS = (4, 9, 16, 36, 64)
LATE = ("blue", "blue", "crimson", "crimson", "crimson")


def labels(ladder: AnswerLadder) -> set[int]:
    rng = random.Random(0)
    return {ladder.draw(rng).label for _ in range(50)}


@pytest.mark.parametrize("truths", [("crimson",), ("red", "crimson"), ("crimson", "red")])
def test_an_answer_may_match_any_of_the_correct_ones(truths):
    ladder = AnswerLadder(BUDGETS, LATE, truths)
    assert ladder.difficulty is Difficulty.HARD
    assert labels(ladder) == {0, 1}


def test_an_oracle_that_matches_none_teaches_nothing():
    ladder = AnswerLadder(BUDGETS, LATE, ("red", "green"))
    assert ladder.difficulty is Difficulty.DROPPED
    assert 1 not in labels(ladder)
    assert IGNORE in labels(ladder)


@pytest.mark.parametrize("before", ["blue", "dark crimson"])
def test_oracles_that_differ_teach_nothing(before):
    """Neither where all below fail, nor where the one before the last merely holds its answer."""
    ladder = AnswerLadder(BUDGETS, ("blue", "blue", "blue", before, "crimson"), ("crimson",))
    assert ladder.difficulty is Difficulty.DROPPED
    assert labels(ladder) == {IGNORE}


@pytest.mark.parametrize("truths", ["crimson", ()])
def test_correct_answers_are_a_sequence_of_one_or_more(truths):
    with pytest.raises(InputError, match="sequence of one or more"):
        AnswerLadder(BUDGETS, LATE, truths)

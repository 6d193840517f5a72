"""The permutation test: its level where there is nothing to find, its power where there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from sdrpn_core.head_finding.question_effect import N_DRAWS, max_sign_flip_p_value

N, N_HEADS = 40, 30


def noise(rng: np.random.Generator) -> np.ndarray:
    """Differences of heads that resemble each other, as those of one image do."""
    shared = rng.normal(size=(N, 1))
    return 0.3 * (shared + rng.normal(size=(N, N_HEADS)))


def best(differences: np.ndarray) -> list[int]:
    """The head that a search over the same data would pick."""
    return [int(differences.mean(axis=0).argmax())]


def test_the_best_of_many_heads_is_rarely_significant_by_luck():
    """Picked after looking at the data, which would ruin a test of that head alone."""
    values = []
    for seed in range(200):
        differences = noise(np.random.default_rng(seed))
        values.append(max_sign_flip_p_value(differences, best(differences), seed))
    for level in (0.05, 0.2, 0.5):
        found = np.mean(np.array(values) <= level)
        # Three standard errors of a proportion in 200 trials.
        assert abs(found - level) <= 3 * np.sqrt(level * (1 - level) / 200)


def test_one_head_that_follows_the_question_is_found():
    differences = noise(np.random.default_rng(0))
    differences[:, 7] += 0.5
    assert max_sign_flip_p_value(differences, [7], 0) == 1 / (N_DRAWS + 1)
    assert max_sign_flip_p_value(differences, [8], 0) > 0.2


def test_the_value_is_that_of_all_sign_patterns():
    differences = np.random.default_rng(1).normal(0.3, 1, (8, 3))
    signs = np.array(list(product((-1, 1), repeat=8)))
    highest = (signs @ differences / 8).max(axis=1)
    exact = (highest >= differences[:, [1, 2]].mean() - 1e-12).mean()
    sampled = max_sign_flip_p_value(differences, [1, 2], 0)
    assert sampled == pytest.approx(exact, abs=4 * np.sqrt(exact / N_DRAWS))


def test_equal_differences_count_as_chance():
    assert max_sign_flip_p_value(np.zeros((9, 4)), [0], 0) == 1.0

"""The statistics: against published values, scipy, exact enumeration, and their own promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, t

from sdrpn_bench.intervals import mean_interval, paired_difference, paired_intervals
from sdrpn_bench.metrics.yes_no import YesNo
from sdrpn_bench.totals import metric_totals
from sdrpn_core.data.record import Record
from sdrpn_core.util.wilson import wilson

counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def pairs(both: int, wins: int, losses: int, neither: int) -> tuple[list[bool], list[bool]]:
    method = [True] * (both + wins) + [False] * (losses + neither)
    reference = [True] * both + [False] * wins + [True] * losses + [False] * neither
    return method, reference


cells = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


@given(counts)
def test_wilson_agrees_with_scipy(count):
    correct, n = count
    expected = binomtest(correct, n).proportion_ci(method="wilson")
    assert wilson(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_known_values():
    """81 of 263 is the worked example of Newcombe, Statistics in Medicine 17 (1998) 857."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(20, 20)[1] == 1


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(correct, n):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(correct, n)


def test_paired_difference_published_example():
    """Newcombe (1998) 2635, data set 36, 12, 2, 0: 0.2, method 10 gives 0.0569 to 0.3404."""
    found = paired_difference(*pairs(36, 12, 2, 0))
    assert found.value == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert (found.wins, found.losses) == (12, 2)
    # Twice the probability of at most 2 heads in 14 throws: 2 * (1 + 14 + 91) / 2**14.
    assert found.p_value == pytest.approx(212 / 16384)


@pytest.mark.parametrize(
    ("cell", "numerator"),
    [
        ((20, 12, 2, 16), 20 * 16 - 12 * 2 - 25),  # less half of the 50 items
        ((6, 5, 3, 4), 0),  # positive, but not by as much
        ((3, 9, 8, 4), 3 * 4 - 9 * 8),
    ],
)
def test_paired_difference_is_newcombes_method_10_written_out(cell, numerator):
    both, wins, losses, neither = cell
    n, first, second = sum(cell), both + wins, both + losses
    phi = numerator / (first * (losses + neither) * second * (wins + neither)) ** 0.5
    one, other = (binomtest(k, n).proportion_ci(method="wilson") for k in (first, second))
    p, q = first / n, second / n

    def reach(a, b):
        return (a**2 - 2 * phi * a * b + b**2) ** 0.5

    expected = (
        p - q - reach(p - one.low, other.high - q),
        p - q + reach(one.high - p, q - other.low),
    )
    assert paired_difference(*pairs(*cell)).interval == pytest.approx(expected, abs=1e-9)


def test_the_limits_of_a_bootstrap_are_means_of_draws():
    """A tenth of the scores is a half: 20 draws have at most 5 of these, 97.5 times of 100."""
    assert binom.ppf([0.025, 0.975], 20, 0.1).tolist() == [0, 5]
    assert mean_interval([1.0] * 18 + [0.5] * 2) == pytest.approx((1 - 5 / 40, 1.0))


def test_intervals_of_several_methods_are_those_of_each():
    """Scores of 0 and 1, graded ones, and a single item, which says nothing."""
    draws = np.random.default_rng(0)
    reference = draws.integers(0, 2, 40).astype(float).tolist()
    binary = [draws.integers(0, 2, 40).astype(float).tolist() for _ in range(2)]
    graded = [draws.random(40).tolist() for _ in range(3)]
    methods = [graded[0], binary[0], *graded[1:], binary[1]]
    for against in (reference, draws.random(40).tolist()):
        found = paired_intervals(methods, against)
        for method, (low, high) in zip(methods, found, strict=True):
            expected = paired_difference(method, against).interval
            assert (low, high) == pytest.approx(expected, abs=1e-12)
    assert paired_intervals([[0.5], [1.0]], [0.25]) == [(-1, 1), (-1, 1)]
    assert paired_intervals([], reference) == []


@given(cells)
def test_paired_difference_promises(cell):
    found = paired_difference(*pairs(*cell))
    both, wins, losses, neither = cell
    assert found.value == pytest.approx((wins - losses) / sum(cell))
    low, high = found.interval
    assert -1 <= low <= found.value <= high <= 1
    assert low < high
    swapped = paired_difference(*pairs(both, losses, wins, neither))
    assert swapped.interval == pytest.approx((-high, -low))
    assert swapped.p_value == pytest.approx(found.p_value)


@settings(max_examples=25)
@given(cells, st.randoms(use_true_random=False))
def test_order_of_items_does_not_matter(cell, random):
    method, reference = pairs(*cell)
    order = list(range(len(method)))
    random.shuffle(order)
    shuffled = paired_difference([method[i] for i in order], [reference[i] for i in order])
    assert shuffled == paired_difference(method, reference)


@given(st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_agrees_with_scipy(wins, losses):
    found = paired_difference(*pairs(5, wins, losses, 5)).p_value
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1
    assert found == pytest.approx(expected, abs=1e-12)


def test_pairing_tightens_what_agrees():
    """The same two accuracies: items on which both agree make the difference surer."""
    agreeing = paired_difference(*pairs(50, 10, 0, 40))
    crossing = paired_difference(*pairs(30, 30, 20, 20))
    assert agreeing.value == crossing.value == pytest.approx(0.1)
    width = [high - low for low, high in (agreeing.interval, crossing.interval)]
    assert width[0] < 0.6 * width[1]


@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize(
    "probabilities", [(0.3, 0.2, 0.1, 0.4), (0.25, 0.5, 0.05, 0.2), (0.05, 0.05, 0.05, 0.85)]
)
def test_coverage_of_the_paired_interval(n, probabilities):
    """Over draws of n items the interval holds the true difference about 95 times of 100.

    It may do so more often where few items differ: the method never falls far below.
    """
    draws = np.random.default_rng(0).multinomial(n, probabilities, size=1500)
    true = probabilities[1] - probabilities[2]
    unique, times = np.unique(draws, axis=0, return_counts=True)
    holds = []
    for cell in unique:
        low, high = paired_difference(*pairs(*map(int, cell))).interval
        holds.append(low <= true <= high)
    coverage = times[holds].sum() / times.sum()
    assert 0.93 < coverage < (0.975 if n * sum(probabilities[1:3]) > 10 else 1)


def test_coverage_of_wilson_is_exact_enough():
    for p in (0.1, 0.5, 0.85):
        n = 50
        covered = 0.0
        for k in range(n + 1):
            low, high = wilson(k, n)
            covered += binom.pmf(k, n, p) if low <= p <= high else 0
        assert 0.93 < covered < 0.99


def test_paired_difference_needs_the_same_items():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        paired_difference([True], [True, False])
    with pytest.raises(ValueError, match="not a proportion"):
        paired_difference([], [])


GRADES = np.array([0, 0.3, 0.6, 0.9, 1])
"""What VQA accuracy can be."""


def grades(rng, n, weights=(0.3, 0.2, 0.1, 0.1, 0.3)):
    return rng.choice(GRADES, size=n, p=weights).tolist()


def test_scores_of_0_and_1_keep_their_closed_intervals():
    assert mean_interval([1.0, 0.0, 1.0, True]) == wilson(3, 4)
    assert paired_difference([1.0, 0.0], [0.0, 0.0]) == paired_difference(
        [True, False], [False, False]
    )
    assert paired_difference([1.0, 0.0], [0.0, 0.0]).p_value is not None


def test_a_graded_score_is_no_win_of_1():
    """What bool() would make of the scores: 3 of 3 right, and no difference at all."""
    found = paired_difference([0.3, 0.9, 0.6], [0.1, 0.6, 0.6])
    assert found.value == pytest.approx(0.5 / 3)
    assert (found.wins, found.losses, found.p_value) == (2, 0, None)
    assert found.interval[0] < found.value < found.interval[1]
    assert mean_interval([0.3, 0.9, 0.6])[1] < 1


def test_a_bootstrap_of_many_items_is_as_the_t_distribution_says():
    rng = np.random.default_rng(0)
    method, reference = grades(rng, 4000), grades(rng, 4000, (0.5, 0.2, 0.1, 0.1, 0.1))
    differences = np.array(method) - reference
    for found, values in (
        (mean_interval(method), np.array(method)),
        (paired_difference(method, reference).interval, differences),
    ):
        error = values.std(ddof=1) / len(values) ** 0.5
        expected = t.interval(0.95, len(values) - 1, values.mean(), error)
        assert found == pytest.approx(expected, abs=0.05 * error * 2)
    assert mean_interval(method) == mean_interval(method), "another seed each time"


def test_pairing_tightens_graded_scores_too():
    rng = np.random.default_rng(0)
    reference = np.array(grades(rng, 200)) * 0.8
    method = reference + 0.1
    low, high = paired_difference(method.tolist(), reference.tolist()).interval
    assert high - low < 1e-9
    shuffled = rng.permutation(reference).tolist()
    low, high = paired_difference(method.tolist(), shuffled).interval
    assert high - low > 0.1


def test_coverage_of_the_bootstrap():
    rng = np.random.default_rng(0)
    true = float(GRADES @ (0.3, 0.2, 0.1, 0.1, 0.3))
    intervals = [mean_interval(grades(rng, 40)) for _ in range(150)]
    assert 0.89 < np.mean([low <= true <= high for low, high in intervals]) < 0.99


def test_one_graded_item_says_nothing():
    assert mean_interval([0.3]) == (0, 1)
    assert paired_difference([0.3], [0.0]).interval == (-1, 1)


def counts(pairs):
    metric = YesNo()
    records = {answer: Record("1", (), "q", answers=answer) for answer in ("yes", "no")}
    return [metric.counts(said, records[answer]) for said, answer in pairs]


def test_totals_have_paired_intervals():
    """F1 of a method that is right three times of four, and of one that always says yes."""
    asked = [("yes", "yes"), ("no", "yes"), ("no", "no"), ("no", "no")] * 50
    always = [("yes", answer) for _, answer in asked]
    found = metric_totals(YesNo(), counts(asked), counts(always))
    assert {name: total["value"] for name, total in found.items()} == pytest.approx(
        {"precision": 1, "recall": 0.5, "f1": 2 / 3}
    )
    assert found["precision"]["interval"] == [1, 1]
    low, high = found["recall"]["interval"]
    error = (0.25 / 100) ** 0.5
    assert (low, high) == pytest.approx((0.5 - 1.96 * error, 0.5 + 1.96 * error), abs=0.02)
    assert found["f1"]["difference"]["value"] == pytest.approx(0)
    low, high = found["f1"]["difference"]["interval"]
    assert low < 0 < high
    assert found["precision"]["difference"]["value"] == pytest.approx(0.5)
    itself = metric_totals(YesNo(), counts(asked), counts(asked))
    assert all(total["difference"]["interval"] == [0, 0] for total in itself.values())
    assert metric_totals(YesNo(), counts(asked[:1]))["f1"]["interval"] == [0, 1]

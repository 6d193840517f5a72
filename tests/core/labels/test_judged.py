"""What a map learns from judged regions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdrpn_core.errors import ConfigError, InputError, UnknownNameError
from sdrpn_core.labels.judged import BestRegion, WeightedRegions, region_targets
from sdrpn_core.labels.pseudo import IGNORE
from sdrpn_core.rpn.losses import LOSS_FUNCTIONS

GRID = (4, 6)
LEFT, RIGHT, WIDE = (0, 0, 2, 2), (4, 2, 6, 4), (0, 0, 3, 3)
UNKNOWN = {"labels": BestRegion(), "policy": WeightedRegions()}


def cells(*boxes):
    mask = np.zeros(GRID, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


# -- labels --------------------------------------------------------------------------------------


def test_the_best_region_is_foreground_and_all_else_background():
    labels = BestRegion()([(LEFT,), (RIGHT,)], [3.0, 0.2], GRID)
    np.testing.assert_array_equal(labels, cells(LEFT).astype(int))
    assert labels.dtype == np.int64


def test_of_regions_that_are_as_good_the_smallest_counts_and_the_rest_is_undecided():
    labels = BestRegion(tolerance=0.1)([(WIDE,), (LEFT,), (RIGHT,)], [3.0, 2.95, 1.0], GRID)
    expected = np.where(cells(LEFT), 1, np.where(cells(WIDE), IGNORE, 0))
    np.testing.assert_array_equal(labels, expected)
    strict = BestRegion(tolerance=0.0)([(WIDE,), (LEFT,), (RIGHT,)], [3.0, 2.95, 1.0], GRID)
    np.testing.assert_array_equal(strict, cells(WIDE).astype(int))


def test_two_boxes_that_help_together_are_both_foreground():
    regions, utilities = [(LEFT,), (RIGHT,), (LEFT, RIGHT)], [1.0, 1.1, 4.0]
    labels = BestRegion()(regions, utilities, GRID)
    np.testing.assert_array_equal(labels, cells(LEFT, RIGHT).astype(int))


def test_the_plain_answer_within_the_tolerance_changes_nothing():
    labels = BestRegion(margin=0.1, tolerance=1.0)([(LEFT,)], [0.5], GRID)
    np.testing.assert_array_equal(labels, cells(LEFT).astype(int))


def test_margin_and_tolerance_are_met_to_the_bit():
    """More than the margin helps; up to the tolerance below the best is as good."""
    rule = BestRegion(margin=0.5, tolerance=0.25)
    assert [rule.decides([value]) for value in (0.5, 0.5001)] == [False, True]
    undecided = np.where(cells(LEFT), 1, np.where(cells(WIDE), IGNORE, 0))
    for second, expected in ((2.75, undecided), (2.7499, cells(WIDE).astype(int))):
        labels = rule([(WIDE,), (LEFT,)], [3.0, second], GRID)
        np.testing.assert_array_equal(labels, expected)


def test_by_default_a_region_has_to_make_the_response_twice_as_likely():
    for rule in (BestRegion(), WeightedRegions()):
        assert [rule.decides([value]) for value in (math.log(2), 0.71)] == [False, True]
    labels = BestRegion()([(WIDE,), (LEFT,)], [3.0, 2.91], GRID)
    assert labels[cells(LEFT)].tolist() == [1] * int(cells(LEFT).sum())
    labels = BestRegion()([(WIDE,), (LEFT,)], [3.0, 2.89], GRID)
    np.testing.assert_array_equal(labels, cells(WIDE).astype(int))
    # At 0.5 nats, a nat more is e squared times the weight.
    targets = WeightedRegions()([(LEFT,)], [1.0], GRID)
    assert targets.max() == pytest.approx(math.e**2 / (math.e**2 + 1))


# -- policy --------------------------------------------------------------------------------------


def enumerated(utilities, temperature):
    """Softmax weights by the definition, the plain answer last."""
    terms = [math.exp(u / temperature) for u in [*utilities, 0.0]]
    return [term / sum(terms) for term in terms]


def test_targets_are_the_probability_of_a_cell_under_the_weighted_regions():
    regions, utilities = [(LEFT,), (WIDE,), (LEFT, RIGHT)], [1.0, 0.4, -0.3]
    targets = WeightedRegions(temperature=0.5)(regions, utilities, GRID)
    a, b, c, _ = enumerated(utilities, 0.5)
    assert targets[0, 0] == pytest.approx(a + b + c, rel=1e-6)
    assert targets[2, 2] == pytest.approx(b, rel=1e-6)
    assert targets[3, 5] == pytest.approx(c, rel=1e-6)
    assert targets[0, 5] == 0
    assert targets.dtype == np.float32


def test_the_gradient_of_the_policys_likelihood_is_map_minus_target():
    """The log-likelihood of the weighted masks, written out, has the gradient that bce gets."""
    regions, utilities = [(LEFT,), (WIDE,), (RIGHT,)], [1.5, 1.0, -2.0]
    logits = torch.linspace(-3, 3, 24, dtype=torch.float64).requires_grad_()
    p = logits.sigmoid()
    weights = enumerated(utilities, 0.7)
    expected = torch.zeros((), dtype=torch.float64)
    for weight, region in zip(weights, [*regions, ()], strict=True):
        m = torch.from_numpy(cells(*region).ravel())
        expected = expected - weight * torch.where(m, p.log(), (1 - p).log()).sum()
    (by_hand,) = torch.autograd.grad(expected, logits)
    targets = WeightedRegions(temperature=0.7)(regions, utilities, GRID)
    row = torch.from_numpy(targets).double().flatten()[None]
    loss, n_cells = LOSS_FUNCTIONS["bce"](logits[None], row)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert n_cells == 24
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, by_hand, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, logits.sigmoid() - row[0], rtol=0, atol=1e-12)


def test_a_distribution_learns_the_targets_divided_by_their_sum():
    """The squared error is smallest there, and its gradient the difference."""
    targets = WeightedRegions()([(LEFT,), (WIDE,)], [1.0, 0.8], GRID)
    row = torch.from_numpy(targets).double().flatten()[None]
    goal = row / row.sum()
    assert LOSS_FUNCTIONS["mse"](goal, row)[0] == pytest.approx(0, abs=1e-12)
    scores = torch.rand(1, 24, generator=torch.Generator().manual_seed(0)).double().softmax(1)
    scores.requires_grad_()
    loss, _ = LOSS_FUNCTIONS["mse"](scores, row)
    step = 1e-6
    for cell in (0, 14, 23):
        moved = scores.detach().clone()
        moved[0, cell] += step
        slope = (LOSS_FUNCTIONS["mse"](moved, row)[0] - loss.detach()) / step
        (gradient,) = torch.autograd.grad(loss, scores, retain_graph=True)
        assert gradient[0, cell].item() == pytest.approx(slope.item(), rel=1e-3, abs=0.05)


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=6),
    st.floats(0.05, 5),
    st.floats(-100, 100),
)
def test_weights_are_those_of_a_group_whatever_its_baseline(utilities, temperature, shift):
    """Regions and the plain answer alike: a constant that is added to all of them cancels."""
    rule = WeightedRegions(temperature=temperature)
    n = len(utilities)
    masks = np.zeros((n, 1, n), dtype=bool)
    masks[np.arange(n - 1), 0, np.arange(n - 1)] = True
    values = np.array(utilities)
    one, other = rule._targets(masks, values), rule._targets(masks, values + shift)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert one.sum() <= 1 + 1e-6


def test_at_low_temperature_only_the_best_region_counts():
    regions, utilities = [(LEFT,), (RIGHT,)], [2.0, 1.0]
    np.testing.assert_allclose(
        WeightedRegions(temperature=0.01)(regions, utilities, GRID), cells(LEFT), atol=1e-6
    )


# -- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", UNKNOWN.values(), ids=UNKNOWN)
@pytest.mark.parametrize("utilities", [[0.7, -3.0], [-1.0, 0.0], []])
def test_where_no_region_helps_everything_is_ignored(rule, utilities):
    """0.7 nats is the margin itself."""
    regions = [(LEFT,), (RIGHT,)][: len(utilities)]
    targets = rule(regions, utilities, GRID)
    np.testing.assert_array_equal(targets, np.full(GRID, IGNORE))
    assert targets.dtype == rule.dtype
    assert not rule.decides(utilities)


@given(st.data())
def test_targets_lie_in_the_unit_interval_or_are_ignored(data):
    box = st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 3), st.integers(1, 3))
    regions = data.draw(st.lists(st.lists(box, max_size=2), max_size=5))
    grown = [tuple((x, y, min(6, x + w), min(4, y + h)) for x, y, w, h in r) for r in regions]
    utility = st.floats(-9, 9)
    utilities = data.draw(st.lists(utility, min_size=len(grown), max_size=len(grown)))
    for rule in UNKNOWN.values():
        targets = rule(grown, utilities, GRID)
        assert targets.shape == GRID
        assert (((targets >= 0) & (targets <= 1)) | (targets == IGNORE)).all()
    labels = BestRegion(tolerance=0)(grown, utilities, GRID)
    if (labels == 1).any():
        assert max(utilities) > 0.7


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("labels", {"margin": -1.0}, "margin"),
        ("labels", {"margin": math.nan}, "margin"),
        ("labels", {"tolerance": -0.1}, "tolerance"),
        ("policy", {"temperature": 0.0}, "temperature"),
        ("labels", {"temperature": 1.0}, "temperature"),
        ("policy", {"tolerance": 1.0}, "tolerance"),
    ],
)
def test_options_out_of_range_or_of_another_form_are_refused(form, options, message):
    with pytest.raises(ConfigError, match=message):
        region_targets(form, **options)


def test_unknown_forms_and_counts_that_differ_are_refused():
    with pytest.raises(UnknownNameError, match="policy"):
        region_targets("polcy")
    with pytest.raises(InputError, match="1 utilities for 2"):
        BestRegion()([(LEFT,), (RIGHT,)], [1.0], GRID)
    assert region_targets("policy", temperature=0.1).to_dict() == {
        "form": "policy",
        "margin": 0.7,
        "temperature": 0.1,
    }

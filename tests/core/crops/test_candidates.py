"""Candidate regions drawn from a map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdrpn_core.crops.candidates import Region, RegionSampler
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.grid.geometry import PaddedSquare, enclosing_box

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
unit = st.floats(0, 1, width=32)
samplers = st.builds(
    RegionSampler,
    n=st.integers(1, 12),
    max_boxes=st.integers(1, 3),
    pairs=unit,
    uniform=unit,
    min_area=st.integers(1, 9),
    max_area_fraction=st.floats(0.05, 1),
    seed=st.integers(0, 9),
)


def area(box):
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)


def mask(region: Region, shape):
    cells = np.zeros(shape, dtype=int)
    for x0, y0, x1, y1 in region:
        cells[y0:y1, x0:x1] += 1
    return cells


@st.composite
def maps(draw):
    shape = draw(shapes)
    values = draw(hnp.arrays(np.float32, shape, elements=unit))
    content = draw(hnp.arrays(np.bool_, shape))
    content.flat[draw(st.integers(0, content.size - 1))] = True
    return values, content


@settings(max_examples=60)
@given(maps(), samplers)
def test_candidates_are_different_regions_inside_the_image(drawn, sampler):
    values, content = drawn
    regions = sampler(values, content, "record")
    assert 1 <= len(regions) <= sampler.n
    assert len(set(regions)) == len(regions)
    left, top, right, bottom = enclosing_box(content)
    for region in regions:
        assert 1 <= len(region) <= max(2, sampler.max_boxes)
        assert sampler.max_boxes > 1 or len(region) == 1
        for x0, y0, x1, y1 in region:
            assert left <= x0 < x1 <= right
            assert top <= y0 < y1 <= bottom
        assert list(region) == sorted(region)
    assert sampler(values.copy(), content.copy(), "record") == regions


def test_key_and_seed_decide_the_draws():
    values, content = np.full((10, 10), 0.5), np.ones((10, 10), dtype=bool)
    one = RegionSampler(seed=1)(values, content, "a")
    assert one != RegionSampler(seed=1)(values, content, "b")
    assert one != RegionSampler(seed=2)(values, content, "a")


def test_what_the_map_shows_comes_first_together_and_apart():
    values = np.zeros((12, 12))
    values[1:3, 1:4] = 0.9
    values[8:11, 9:11] = 0.8
    first, *others = RegionSampler(n=6)(values, np.ones((12, 12), dtype=bool), "x")
    one, other = (1, 1, 4, 3), (9, 8, 11, 11)
    assert first == (one, other)
    assert set(others[:2]) == {(one,), (other,)}


def test_draws_follow_the_map_but_reach_everywhere():
    """A cell that the map names lies in most draws; with a uniform share no cell lies in none."""
    values, content = np.zeros((8, 8)), np.ones((8, 8), dtype=bool)
    values[2, 5] = 1.0
    options = {"n": 40, "min_area": 1, "pairs": 0.0}
    follow = RegionSampler(**options, uniform=0.0)(values, content, "x")
    assert all(mask(region, (8, 8))[2, 5] for region in follow)
    covered = np.zeros((8, 8), dtype=int)
    for key in range(20):
        for region in RegionSampler(**options, uniform=0.5)(values, content, str(key)):
            covered += mask(region, (8, 8))
    assert covered.min() > 0
    assert covered.argmax() == 2 * 8 + 5


def test_a_pair_is_disjoint_and_looks_where_the_first_box_does_not():
    values, content = np.zeros((12, 12)), np.ones((12, 12), dtype=bool)
    values[1, 1], values[10, 10] = 1.0, 1e-6
    sampler = RegionSampler(n=40, thresholds=(), pairs=1.0, uniform=0.0, max_area_fraction=0.1)
    pairs = [region for region in sampler(values, content, "x") if len(region) == 2]
    assert len(pairs) > 20
    for pair in pairs:
        cells = mask(pair, (12, 12))
        assert cells.max() == 1
        assert cells[1, 1]
        assert cells[10, 10]


def test_a_map_of_zeros_draws_from_all_of_the_image_and_nothing_of_the_padding():
    geometry = PaddedSquare(source_size=(120, 60), grid=(12, 12), side=120)
    regions = RegionSampler(n=30, min_area=1)(np.zeros((12, 12)), geometry.content(), "x")
    assert len(regions) == 30
    covered = sum(mask(region, (12, 12)) for region in regions) > 0
    assert (covered & ~geometry.content()).sum() == 0
    assert covered.sum() > geometry.content().sum() / 2


def test_boxes_have_the_areas_that_are_asked_for():
    values, content = np.ones((24, 24)), np.ones((24, 24), dtype=bool)
    sampler = RegionSampler(n=200, min_area=9, max_area_fraction=0.2, thresholds=(), pairs=0.0)
    areas = [area(box) for (box,) in sampler(values, content, "x")]
    # Sides are whole cells, and so an area may be off by a rounded row and column.
    assert min(areas) >= 6
    assert max(areas) <= 0.2 * 24 * 24 * 1.2
    assert np.median(areas) == pytest.approx((9 * 0.2 * 24 * 24) ** 0.5, rel=0.25)


def test_a_small_grid_has_fewer_candidates():
    regions = RegionSampler(n=10, min_area=1)(np.ones((1, 2)), np.ones((1, 2), dtype=bool), "x")
    assert set(regions) <= {((0, 0, 1, 1),), ((1, 0, 2, 1),), ((0, 0, 2, 1),)} | {
        ((0, 0, 1, 1), (1, 0, 2, 1))
    }


@pytest.mark.parametrize(
    "values",
    [
        {"n": 0},
        {"min_area": 0},
        {"max_boxes": 0},
        {"pairs": 1.5},
        {"uniform": -0.1},
        {"thresholds": (0.5, 1.0)},
        {"max_area_fraction": 0.0},
    ],
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        RegionSampler(**values)


@pytest.mark.parametrize(
    ("values", "content"),
    [
        (np.ones((2, 3)), np.ones((3, 2), dtype=bool)),
        (np.ones(4), np.ones(4, dtype=bool)),
        (np.ones((2, 2)), np.zeros((2, 2), dtype=bool)),
        (np.full((2, 2), -1.0), np.ones((2, 2), dtype=bool)),
        (np.full((2, 2), np.nan), np.ones((2, 2), dtype=bool)),
    ],
)
def test_maps_that_nothing_can_be_drawn_from_are_refused(values, content):
    with pytest.raises(InputError, match=r"candidate regions"):
        RegionSampler()(values, content, "x")


@pytest.mark.parametrize("n", [1, 2, 5])
def test_half_of_the_candidates_explore(n):
    """What the map shows is the same for every key; at least half, rounded down, is drawn."""
    values = np.zeros((20, 20))
    for place, height in enumerate((1.0, 0.6, 0.3)):
        values[6 * place : 6 * place + 4, 6 * place : 6 * place + 4] = height
    content = np.ones((20, 20), np.bool_)
    found = [set(RegionSampler(n=n)(values, content, str(key))) for key in range(20)]
    assert {len(regions) for regions in found} == {n}
    assert len(set.intersection(*found)) == n - n // 2


def test_a_peak_of_one_cell_is_shown_as_a_policy_would_crop_it():
    values = np.zeros((20, 20))
    values[10, 10] = 1.0
    content = np.ones((20, 20), np.bool_)
    for min_area, box in ((4, (9, 9, 12, 12)), (1, (10, 10, 11, 11))):
        sampler = RegionSampler(n=4, min_area=min_area)
        assert all(sampler(values, content, str(key))[0] == (box,) for key in range(5))

"""How a map is measured against a box, and how measures are added up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import mannwhitneyu

from sdrpn_core.grid.geometry import Resized
from sdrpn_core.head_finding.measures import box_auc, pointing
from sdrpn_core.head_finding.samples import Target
from sdrpn_core.head_finding.statistics import HeadStatistics, resample_area
from sdrpn_core.util.wilson import wilson

GRID = (3, 4)
N_CELLS = 12
# Few distinct values, so that ties are the rule.
tied_maps = arrays(np.float32, (2, N_CELLS), elements=st.sampled_from([0.0, 0.125, 0.25, 0.5]))
boxes = st.sets(st.integers(0, N_CELLS - 1), min_size=1, max_size=N_CELLS - 1)


def cells(places) -> np.ndarray:
    inside = np.zeros(N_CELLS, dtype=bool)
    inside[list(places)] = True
    return inside


@given(tied_maps, boxes)
def test_auc_is_the_share_of_pairs_in_the_right_order_ties_counting_half(maps, places):
    inside = cells(places)
    for found, row in zip(box_auc(maps, inside), maps, strict=True):
        pairs = np.subtract.outer(row[inside], row[~inside])
        assert found == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
        statistic = mannwhitneyu(row[inside], row[~inside]).statistic
        assert found == pytest.approx(statistic / pairs.size)


@given(tied_maps, boxes)
def test_pointing_is_the_chance_that_a_highest_cell_is_inside(maps, places):
    inside = cells(places)
    for found, row in zip(pointing(maps, inside), maps, strict=True):
        highest = [i for i in range(N_CELLS) if row[i] == max(row)]
        assert found == pytest.approx(sum(inside[i] for i in highest) / len(highest))


def test_a_constant_map_scores_by_chance():
    inside = cells([0, 1, 2])
    constant = np.full((5, 2, N_CELLS), 0.1, np.float32)
    np.testing.assert_allclose(pointing(constant, inside), np.full((5, 2), 0.25))
    np.testing.assert_allclose(box_auc(constant, inside), np.full((5, 2), 0.5))


def test_a_map_on_a_finer_grid_keeps_its_sums_where_they_lie():
    fine = np.arange(24, dtype=np.float32).reshape(4, 6)
    found = resample_area(fine, (2, 3))
    np.testing.assert_allclose(found, fine.reshape(2, 2, 3, 2).sum(axis=(1, 3)))
    np.testing.assert_array_equal(resample_area(fine, (4, 6)), fine)


def test_a_cell_on_the_border_of_two_is_split_by_area():
    np.testing.assert_allclose(resample_area(np.array([[0.0, 3.0, 0.0]]), (1, 2)), [[1.5, 1.5]])
    np.testing.assert_allclose(
        resample_area(np.array([[0.0, 6.0]]), (1, 3)), [[0.0, 2.0, 4.0]], atol=1e-12
    )


def target(places, grid=GRID) -> Target:
    return Target(Resized((40, 30), grid, cell=10), cells(places))


def test_statistics_are_means_over_samples_and_halves():
    rng = np.random.default_rng(0)
    statistics = HeadStatistics(n_layers=2, n_heads=3, grid=GRID)
    maps = rng.random((5, 2, 2, 3, N_CELLS), dtype=np.float32)  # sample, layer, rows, head, cell
    targets = [target([i, i + 1]) for i in range(5)]
    for i, (sample, where) in enumerate(zip(maps, targets, strict=True)):
        statistics.add_sample(i % 2)
        for layer in range(2):
            statistics.add_layer(i % 2, layer, sample[layer], where)
    shares = maps / maps.sum(-1, keepdims=True)
    hits = np.stack([pointing(m, t.inside) for m, t in zip(maps, targets, strict=True)])
    areas = np.stack([box_auc(m, t.inside) for m, t in zip(maps, targets, strict=True)])
    for rows in range(2):
        for half, chosen in ((None, slice(None)), (0, slice(0, None, 2)), (1, slice(1, None, 2))):
            table = statistics.table(rows, half)
            assert table.n == len(maps[chosen])
            for found, values in (
                (table.pointing, hits),
                (table.auc, areas),
                (table.mass, maps.sum(-1)),
                (table.peak, shares.max(-1)),
            ):
                np.testing.assert_allclose(found, values[chosen, :, rows].mean(axis=0), rtol=1e-6)
            sink = shares[:, :, rows].mean(axis=0).max(axis=-1)
            np.testing.assert_allclose(table.sink, sink, rtol=1e-6)


def test_a_sink_is_found_through_grids_of_several_sizes():
    statistics = HeadStatistics(n_layers=1, n_heads=2, grid=(2, 2))
    for i, grid in enumerate(((2, 2), (4, 4), (4, 6))):
        n = grid[0] * grid[1]
        maps = np.zeros((2, 2, n), np.float32)
        maps[:, 0, -1] = 0.5  # head 0: always the last cell
        maps[:, 1, (i * 7) % n] = 0.5  # head 1: elsewhere in each image
        inside = np.arange(n) == 0
        statistics.add_sample(i % 2)
        statistics.add_layer(i % 2, 0, maps, Target(Resized((40, 40), grid, cell=10), inside))
    table = statistics.table(0)
    np.testing.assert_allclose(table.sink[0, 0], 1.0)
    assert table.sink[0, 1] < 0.7
    np.testing.assert_allclose(table.peak, [[1.0, 1.0]])


def test_a_head_that_ignores_the_image_is_no_error():
    statistics = HeadStatistics(n_layers=1, n_heads=1, grid=GRID)
    statistics.add_sample(0)
    statistics.add_layer(0, 0, np.zeros((2, 1, N_CELLS), np.float32), target([0, 1, 2]))
    table = statistics.table(0)
    assert (table.mass[0, 0], table.peak[0, 0], table.sink[0, 0]) == (0, 0, 0)
    assert (table.pointing[0, 0], table.auc[0, 0]) == (0.25, 0.5)


def test_the_interval_of_a_share_with_broken_ties():
    low, high = wilson(4.5, 9)
    assert low < 0.5 < high
    assert low == pytest.approx(1 - high)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit

from sdrpn_core.errors import AttentionError, ConfigError, InputError
from sdrpn_core.grid.roi_map import RoIMap, gaussian_blur

maps = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(-1000, 1000, width=32),
)


@given(maps)
def test_probabilities(scores):
    probabilities = RoIMap(scores).probabilities()
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expit(scores.astype(np.float64)), atol=1e-6)


def test_distribution_is_thresholded_as_it_is():
    scores = np.array([[0.2, 0.8]], dtype=np.float32)
    np.testing.assert_array_equal(RoIMap(scores, "distribution").probabilities(), scores)


@given(maps)
def test_blur_is_the_mirrored_three_by_three_average(scores):
    """Against a direct sum over the nine neighbors, mirrored without repeating the edge."""
    side = np.exp(-0.5)
    weights = np.array([side, 1, side]) / (1 + 2 * side)
    rows, columns = scores.shape

    def mirror(index, length):
        if length == 1:
            return 0
        return length - 2 if index == length else abs(index)

    expected = np.zeros(scores.shape)
    for y, x, dy, dx in np.ndindex(rows, columns, 3, 3):
        source = scores[mirror(y + dy - 1, rows), mirror(x + dx - 1, columns)]
        expected[y, x] += weights[dy] * weights[dx] * source
    blurred = gaussian_blur(scores)
    assert blurred.dtype == scores.dtype
    np.testing.assert_allclose(blurred, expected, atol=1e-5 * max(1.0, np.abs(scores).max()))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_constant_maps_stay_constant(shape):
    np.testing.assert_allclose(gaussian_blur(np.full(shape, 3.0)), np.full(shape, 3.0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(value):
    with pytest.raises(AttentionError, match="1 of 6"):
        RoIMap(np.array([[0, 1, 2], [3, value, 5]]))


@pytest.mark.parametrize("scores", [np.zeros(4), np.zeros((0, 4)), np.zeros((1, 2, 2))])
def test_scores_of_another_shape_are_refused(scores):
    with pytest.raises(InputError, match=r"\(h, w\)"):
        RoIMap(scores)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="logit, distribution"):
        RoIMap(np.zeros((2, 2)), "softmax")

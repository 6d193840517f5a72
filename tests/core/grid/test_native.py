"""Native grids: no pixel is lost and none is made up, within the limits."""

from __future__ import annotations

from math import ceil, sqrt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from sdrpn_core.grid.native import native_grid

SIDES = st.integers(1, 5000)
CELLS = st.sampled_from([8, 14, 28, 32])


def shown(grid, breaks=0):
    return grid[0] * (grid[1] + breaks)


@given(width=SIDES, height=SIDES, cell=CELLS)
def test_without_limits_the_grid_is_the_smallest_that_keeps_every_pixel(width, height, cell):
    rows, columns = native_grid((width, height), cell, 10**9)
    assert (rows - 1) * cell < height <= rows * cell
    assert (columns - 1) * cell < width <= columns * cell


@given(
    width=SIDES,
    height=SIDES,
    cell=CELLS,
    most=st.integers(2, 3000),
    breaks=st.integers(0, 1),
)
@example(width=129, height=1591, cell=32, most=211, breaks=0)
@example(width=1534, height=130, cell=32, most=222, breaks=1)
def test_a_grid_takes_neither_more_than_the_budget_nor_than_its_pixels(
    width, height, cell, most, breaks
):
    grid = native_grid((width, height), cell, most, breaks=breaks)
    assert min(grid) >= 1
    assert shown(grid, breaks) <= most
    assert grid[0] <= ceil(height / cell)
    assert grid[1] <= ceil(width / cell)


@given(width=SIDES, height=SIDES, cell=CELLS, most=st.integers(1, 3000))
@example(width=749, height=749, cell=8, most=961)  # 31 cells a side: rounding decides
def test_a_reduced_grid_is_that_of_the_stock_processor(width, height, cell, most):
    """Within the shapes for which the stock rule keeps its own maximum."""
    if max(width, height) > 200 * min(width, height):
        return
    stock = smart_resize(height, width, cell, min_pixels=1, max_pixels=most * cell**2)
    stock_grid = (stock[0] // cell, stock[1] // cell)
    rounded = round(width / cell) * round(height / cell)
    is_enlarged = width * height < most * cell**2
    if rounded <= most or is_enlarged or shown(stock_grid) > most:
        return
    assert native_grid((width, height), cell, most) == stock_grid


@given(width=SIDES, height=SIDES, most=st.integers(4, 3000), breaks=st.integers(0, 1))
def test_the_shape_is_kept_to_within_a_token(width, height, most, breaks):
    rows, columns = native_grid((width, height), 28, most, breaks=breaks)
    if min(rows, columns) == 1:
        return
    # One scale explains both sides, each rounded by less than a token.
    low = max((rows - 1) / height, (columns - 1) / width)
    high = min((rows + 1) / height, (columns + 1) / width)
    assert low < high


@given(width=st.integers(1, 80), height=st.integers(1, 80), least=st.integers(1, 9))
def test_the_minimum_is_kept_by_enlarging(width, height, least):
    plain = native_grid((width, height), 28, 10**9)
    grid = native_grid((width, height), 28, 10**9, least=least)
    assert shown(grid) >= least
    assert (grid == plain) == (shown(plain) >= least)


def todays(size, cell, most, least, breaks):
    """Before grids were searched: within the budget, this is still the result."""
    grid = native_grid(size, cell, most, breaks=breaks)
    if shown(grid) >= least:
        return grid
    rows, columns = (side / cell for side in reversed(size))
    scale = sqrt(least / (rows * columns))
    return ceil(rows * scale), ceil(columns * scale)


@given(
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    cell=CELLS,
    most=st.integers(1, 40),
    least=st.integers(1, 9),
    breaks=st.integers(0, 1),
)
@example(width=27, height=24, cell=28, most=4, least=4, breaks=0)
@example(width=72, height=182, cell=28, most=4, least=4, breaks=0)
@example(width=9, height=24, cell=8, most=2, least=4, breaks=0)
@example(width=2000, height=10, cell=28, most=3, least=2, breaks=1)
def test_a_tiny_budget_is_exceeded_by_nothing_but_the_minimum(
    width, height, cell, most, least, breaks
):
    grid = native_grid((width, height), cell, most, least=least, breaks=breaks)
    # Each row has its break: the fewest tokens that show the minimum are a single row.
    allowed = max(most, least + breaks)
    assert min(grid) >= 1
    assert shown(grid) >= least
    assert shown(grid, breaks) <= allowed
    before = todays((width, height), cell, most, least, breaks)
    if shown(before, breaks) <= allowed:
        assert grid == before


@given(side=SIDES, most=st.integers(4, 8))
def test_a_square_stays_one_within_a_tiny_budget(side, most):
    assert native_grid((side, side), 28, most, least=4) == (2, 2)


@pytest.mark.parametrize(
    ("size", "most", "options", "grid"),
    [
        ((27, 24), 4, {"least": 4}, (2, 2)),
        ((72, 182), 4, {"least": 4}, (4, 1)),
        ((182, 72), 4, {"least": 4}, (1, 4)),
        ((72, 182), 8, {"least": 4}, (4, 1)),
        ((28, 56), 2, {"least": 2, "breaks": 1}, (1, 2)),
        ((28, 56), 4, {"least": 2, "breaks": 1}, (2, 1)),
        ((280, 280), 100, {}, (10, 10)),
        ((281, 280), 110, {}, (10, 11)),
        ((281, 280), 109, {}, (10, 10)),
        ((560, 560), 100, {}, (10, 10)),
        ((2800, 28), 10, {}, (1, 10)),
        ((28, 2800), 10, {"breaks": 1}, (5, 1)),
        ((2800, 28), 10, {"breaks": 1}, (1, 9)),
        ((280, 280), 110, {"breaks": 1}, (10, 10)),
        ((28, 28), 9, {"least": 4}, (2, 2)),
        ((28, 28), 1, {"least": 4}, (2, 2)),
    ],
)
def test_examples(size, most, options, grid):
    assert native_grid(size, 28, most, **options) == grid

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdrpn_core.errors import ConfigError, InputError, SdrpnError
from sdrpn_core.grid.geometry import Geometry, Letterboxed, PaddedSquare, Resized

MAX_SIDE = 8000


@st.composite
def sizes(draw):
    """(width, height) from 1x1 to 8000x50 and its transpose, and everything below."""
    long, short = draw(st.integers(1, MAX_SIDE)), draw(st.integers(1, 400))
    return draw(st.sampled_from([(long, short), (short, long), (long, long)]))


@st.composite
def padded_squares(draw):
    cells, pixels = draw(st.integers(1, 32)), draw(st.sampled_from([1, 8, 14, 16, 28]))
    return PaddedSquare(draw(sizes()), (cells, cells), cells * pixels)


@st.composite
def resized(draw):
    grid = (draw(st.integers(1, 60)), draw(st.integers(1, 60)))
    return Resized(draw(sizes()), grid, draw(st.sampled_from([14, 28, 32])))


@st.composite
def letterboxed(draw):
    side = draw(st.sampled_from([56, 96, 384, 1000, 1024]))
    grid = (draw(st.integers(1, 32)), draw(st.integers(1, 32)))
    width, height = size = draw(sizes())
    longest, least = max(size), draw(st.sampled_from([1, 14]))
    scaled = tuple(max(round(length * side / longest), least) for length in (width, height))
    return Letterboxed(size, grid, side, scaled)


geometries = st.one_of(padded_squares(), letterboxed(), resized())


@st.composite
def intervals(draw, length):
    low = draw(st.integers(0, length - 1))
    return low, draw(st.integers(low + 1, length))


@st.composite
def cases(draw, of_source=False):
    """A geometry, and a box on its grid or, if `of_source`, in its image."""
    geometry = draw(geometries)
    width, height = geometry.source_size if of_source else geometry.grid[::-1]
    (x0, x1), (y0, y1) = draw(intervals(width)), draw(intervals(height))
    return geometry, (x0, y0, x1, y1)


def cells_per_pixel(geometry):
    """(4,) how many cells one source pixel spans, in the order of a box."""
    unit = geometry.to_grid([(0, 0, 0, 0), (1, 1, 1, 1)])
    return unit[1] - unit[0]


def float32_error(geometry):
    """Bound in source pixels on the float32 rounding of `to_source`.

    Three operations on numbers no larger than the model's side (in its pixels) or, after the
    division, the image's side; each rounds by at most half a unit in the last place.
    """
    epsilon = np.finfo(np.float32).eps
    if isinstance(geometry, PaddedSquare):
        largest = 2 * geometry.side * max(geometry.source_size) / geometry.side
    elif isinstance(geometry, Letterboxed):
        largest = 2 * geometry.side * max(np.divide(geometry.source_size, geometry.scaled_size))
    else:
        largest = max(geometry.source_size)
    return 4 * epsilon * max(largest, 1)


def published_offset(geometry):
    """Bound in source pixels on the published placement: half a pixel of the padded square."""
    if not isinstance(geometry, PaddedSquare):
        return 0.0
    return 0.5 * max(geometry.source_size) / geometry.side


@given(cases())
def test_source_boxes_stay_inside_the_image(case):
    geometry, box = case
    ((x0, y0, x1, y1),) = geometry.to_source([box])
    width, height = geometry.source_size
    assert 0 <= x0 <= x1 <= width
    assert 0 <= y0 <= y1 <= height


@given(cases())
def test_round_trip_from_the_grid(case):
    """Truncation moves a coordinate by less than one source pixel, toward the origin.

    The padded square adds its published offset, in either direction.
    """
    geometry, box = case
    width, height = geometry.source_size
    low, high = geometry.to_grid([(0, 0, 0, 0), (width, height, width, height)])
    inside = np.clip(box, low, high)
    back = geometry.to_grid(geometry.to_source([box]))[0]
    slack = float32_error(geometry) + published_offset(geometry)
    moved = (inside - back) / cells_per_pixel(geometry)
    assert (moved < 1 + slack).all()
    assert (moved > -slack).all()


@given(cases(of_source=True))
def test_round_trip_from_the_source(case):
    """The cells of a source box, mapped back, hold it but for the truncated last pixel."""
    geometry, box = case
    cells = geometry.cells_of(box)
    rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    around = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    back = geometry.to_source([around])[0]
    # `cells_of` ignores an overlap of a millionth of a cell.
    slack = 1e-6 / cells_per_pixel(geometry).min()
    slack += float32_error(geometry) + published_offset(geometry)
    assert (back[:2] <= np.asarray(box[:2]) + slack).all()
    assert (back[2:] > np.asarray(box[2:]) - 1 - slack).all()


@given(cases(), st.data())
def test_to_source_is_monotone(case, data):
    geometry, (x0, y0, x1, y1) = case
    rows, columns = geometry.grid
    larger = (
        data.draw(st.integers(0, x0)),
        data.draw(st.integers(0, y0)),
        data.draw(st.integers(x1, columns)),
        data.draw(st.integers(y1, rows)),
    )
    small, large = geometry.to_source([(x0, y0, x1, y1), larger])
    assert (large[:2] <= small[:2]).all()
    assert (large[2:] >= small[2:]).all()


@given(cases(of_source=True))
def test_cells_of_a_part_are_cells_of_the_image(case):
    geometry, box = case
    cells = geometry.cells_of(box)
    assert cells.shape == geometry.grid
    assert cells.any()
    assert not (cells & ~geometry.content()).any()


@given(geometries)
def test_content_is_centered_and_whole(geometry):
    content = geometry.content()
    rows, columns = np.flatnonzero(content.any(1)), np.flatnonzero(content.any(0))
    assert content.sum() == rows.size * columns.size
    assert content[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    if isinstance(geometry, Resized):
        assert content.all()
        return
    if isinstance(geometry, PaddedSquare):  # letterboxes with odd padding are a pixel off center
        np.testing.assert_array_equal(content, content[::-1, ::-1])
    width, height = geometry.source_size
    assert content.all(0).any() or height < width
    assert content.all(1).any() or width < height


@given(letterboxed(), st.data())
def test_a_letterbox_holds_what_its_pixels_hold(geometry, data):
    """Paste an image of whole pixels as preprocessing does, and look which cells they touch.

    The image has the size that it takes in the square, so that its pixels are the square's.
    """
    width, height = geometry.scaled_size
    rows, columns = data.draw(st.sampled_from(_divisors(geometry.side)))
    whole = Letterboxed((width, height), (rows, columns), geometry.side, (width, height))
    (x0, x1), (y0, y1) = data.draw(intervals(width)), data.draw(intervals(height))
    square = np.zeros((geometry.side, geometry.side), dtype=np.bool_)
    left, top = (geometry.side - width) // 2, (geometry.side - height) // 2
    square[top : top + height, left : left + width][y0:y1, x0:x1] = True
    cells = square.reshape(rows, geometry.side // rows, columns, geometry.side // columns)
    np.testing.assert_array_equal(whole.cells_of((x0, y0, x1, y1)), cells.any((1, 3)))
    # And back: the part of every cell that shows the image, to the pixel.
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    tall, wide = geometry.side // rows, geometry.side // columns
    edges = np.array([column * wide, row * tall, (column + 1) * wide, (row + 1) * tall])
    expected = np.clip(edges - [left, top, left, top], 0, [width, height, width, height])
    found = whole.to_source([(column, row, column + 1, row + 1)])[0]
    np.testing.assert_array_equal(found, expected)


def _divisors(side):
    """Grids whose cells are whole pixels of the square."""
    counts = [n for n in range(1, 33) if side % n == 0]
    return [(rows, columns) for rows in counts for columns in counts]


@given(geometries)
def test_dictionary_round_trip(geometry):
    restored = Geometry.from_dict(json.loads(json.dumps(geometry.to_dict())))
    assert restored == geometry
    assert type(restored) is type(geometry)


def test_padded_square_by_hand():
    """640x480 in a 336 px square: scaled to 336x252, 42 px (three cells of 14) above and below."""
    geometry = PaddedSquare((640, 480), (24, 24), 336)
    boxes = [(0, 3, 24, 21), (0, 0, 24, 24), (12, 12, 24, 21), (0, 0, 24, 3)]
    expected = [(0, 0, 640, 480), (0, 0, 640, 480), (320, 240, 640, 480), (0, 0, 640, 0)]
    np.testing.assert_array_equal(geometry.to_source(boxes), expected)
    np.testing.assert_allclose(geometry.to_grid([(320, 240, 640, 480)]), [(12, 12, 24, 21)])
    assert np.flatnonzero(geometry.content().all(1)).tolist() == list(range(3, 21))


def test_padded_square_rounds_in_float32():
    """Six cells of 14 px at scale 0.672 are 125 px, but 124.99999999999999 in float64."""
    boxes = PaddedSquare((500, 375), (24, 24), 336).to_source([(6, 12, 24, 24)])
    assert boxes[0, 0] == 125


def test_letterboxed_by_hand():
    """1000x1 becomes 384x14 in a square of 384, 185 px below its top: cells of 16 by 16."""
    geometry = Letterboxed((1000, 1), (24, 24), 384, (384, 14))
    rows = np.flatnonzero(geometry.content().any(1))
    assert rows.tolist() == [11, 12]  # pixels 185 to 199 of rows 176 to 208
    np.testing.assert_allclose(geometry.to_grid([(0, 0, 1000, 1)]), [(0, 185 / 16, 24, 199 / 16)])
    np.testing.assert_array_equal(geometry.to_source([(6, 11, 12, 13)]), [(250, 0, 500, 1)])


def test_the_grid_need_not_divide_a_letterbox():
    """24 cells of 42 2/3 px: three of them are 128 px, which the image's left edge is at."""
    geometry = Letterboxed((768, 1024), (24, 24), 1024, (768, 1024))
    np.testing.assert_array_equal(geometry.to_source([(3, 0, 6, 3)]), [(0, 0, 128, 128)])
    np.testing.assert_allclose(geometry.to_grid([(0, 0, 128, 128)]), [(3, 0, 6, 3)])
    assert np.flatnonzero(geometry.content().all(0)).tolist() == list(range(3, 21))


def test_resized_by_hand():
    """560x420 on 15 rows of 20 cells: 28 source pixels a cell in both directions."""
    geometry = Resized((560, 420), (15, 20), 28)
    np.testing.assert_array_equal(geometry.to_source([(1, 2, 20, 15)]), [(28, 56, 560, 420)])
    cells = geometry.cells_of((27, 56, 57, 84))
    assert np.argwhere(cells).tolist() == [[2, 0], [2, 1], [2, 2]]


def test_touching_an_edge_is_no_overlap():
    geometry = Resized((100, 100), (10, 10), 28)
    assert np.argwhere(geometry.cells_of((10, 20, 20, 30))).tolist() == [[2, 1]]
    assert not geometry.cells_of((10, 20, 10, 30)).any()


def test_an_edge_that_float64_misses_is_no_overlap():
    """Three cells of 14 px at scale 0.7 are 60 pixels, which are 3.0000000000000004 cells."""
    geometry = PaddedSquare((480, 360), (24, 24), 336)
    assert geometry.to_grid([(0, 0, 60, 360)])[0, 2] > 3
    columns = np.flatnonzero(geometry.cells_of((0, 0, 60, 360)).any(0))
    assert columns.tolist() == [0, 1, 2]


@pytest.mark.parametrize("axis", [0, 1])
def test_a_pixel_of_a_large_image_is_an_overlap(axis):
    """Of a cell it is a thousandth."""
    geometry = Resized((4000, 4000), (4, 4), 28)
    box = [0, 0, 1000, 1000]
    box[2 + axis] += 1
    cells = geometry.cells_of(box)
    assert cells.any(axis).tolist() == [True, True, False, False]
    assert cells.any(1 - axis).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("grid_box", "expected"),
    [
        ((4, 4, 5, 5), (30, 30, 60, 60)),  # 10 pixels wide, in the middle
        ((0, 0, 1, 1), (0, 0, 30, 30)),
        ((9, 9, 10, 10), (70, 70, 100, 100)),
        ((9, 2, 10, 6), (70, 20, 100, 60)),  # 40 pixels high already
        ((7, 0, 10, 3), (70, 0, 100, 30)),
    ],
)
def test_narrow_boxes_are_widened_and_moved_back_into_the_image(grid_box, expected):
    geometry = Resized((100, 100), (10, 10), 28)
    assert geometry.to_source([grid_box], min_side=30).tolist() == [[*expected]]


def test_no_box_is_widened_beyond_the_image():
    geometry = Resized((20, 100), (10, 10), 28)
    (found,) = geometry.to_source([(4, 0, 5, 5)], min_side=28)
    assert found.tolist() == [0, 0, 20, 50]


def test_what_is_wide_enough_is_not_moved():
    """A box of 30 pixels, of which 10 lie in the padding on the left."""
    geometry = Letterboxed((80, 100), (10, 10), 100, (80, 100))
    assert geometry.to_source([(0, 0, 3, 3)], min_side=30).tolist() == [[0, 0, 20, 30]]
    assert geometry.to_source([(0, 0, 3, 3)], min_side=31).tolist() == [[0, 0, 31, 31]]


def test_one_pixel_image():
    geometry = PaddedSquare((1, 1), (24, 24), 336)
    assert geometry.content().all()
    np.testing.assert_array_equal(geometry.to_source([(0, 0, 24, 24)]), [(0, 0, 1, 1)])


def test_no_boxes():
    geometry = Resized((10, 10), (2, 2), 28)
    assert geometry.to_source([]).shape == (0, 4)
    assert geometry.to_grid(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PaddedSquare((0, 5), (2, 2), 28), "source_size"),
        (lambda: PaddedSquare((5, 5), (2,), 28), "grid"),
        (lambda: PaddedSquare((5, 5), (24, 24), 335), "whole number of pixels per cell"),
        (lambda: PaddedSquare((5, 5), (2, 2), 0), "side"),
        (lambda: Resized((5, 5.5), (2, 2), 28), "source_size"),
        (lambda: Resized((5, 5), (2, 2), True), "cell"),
        (lambda: Letterboxed((5, 5), (2, 2), 28, (28, 29)), r"\(28, 29\) does not fit .* side 28"),
        (lambda: Letterboxed((5, 5), (2, 2), 28, (28, 0)), "scaled_size"),
        (
            lambda: Geometry.from_dict({"kind": "sphere"}),
            r"known kinds: letterboxed,.* padded_square, resized",
        ),
        (lambda: Geometry.from_dict({"kind": "resized", "side": 3}), "resized"),
    ],
)
def test_impossible_fields_are_refused(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_boxes_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"\(N, 4\)") as caught:
        Resized((5, 5), (2, 2), 28).to_source([1, 2, 3, 4])
    assert isinstance(caught.value, SdrpnError)

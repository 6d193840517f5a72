"""Heatmaps land where the geometry says, and every image can be shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdrpn_core.grid.geometry import Geometry, PaddedSquare, Resized
from sdrpn_core.grid.overlay import Caption, draw_before_after, draw_overlay, heatmap
from sdrpn_core.grid.roi_map import RoIMap

sides = st.integers(1, 900)
sizes = st.tuples(sides, sides)


@st.composite
def geometries(draw, size=sizes) -> Geometry:
    shape = draw(size)
    if draw(st.booleans()):
        cells = draw(st.integers(1, 24))
        return PaddedSquare(shape, (cells, cells), side=cells * 14)
    grid = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    return Resized(shape, grid, cell=28)


def peak_at(grid: tuple[int, int], cell: tuple[int, int]) -> RoIMap:
    scores = np.full(grid, -6, dtype=np.float32)
    scores[cell] = 6
    return RoIMap(scores)


@given(geometries(), st.data())
def test_the_brightest_pixel_lies_in_the_brightest_cell(geometry, data):
    content = np.argwhere(geometry.content())
    row, column = data.draw(st.sampled_from([tuple(map(int, cell)) for cell in content]))
    heat = heatmap(peak_at(geometry.grid, (row, column)), geometry, geometry.source_size)
    width, height = geometry.source_size
    assert heat.shape == (height, width)
    assert heat.min() >= 0
    assert heat.max() <= 1
    if heat.max() == 0:  # one pixel, or one cell, has no contrast
        assert np.ptp(heat) == 0
        return
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    x0, y0, x1, y1 = geometry.to_grid([(x, y, x + 1, y + 1)])[0]
    # The nearest pixel center may lie up to a pixel outside a cell that pixels hardly resolve.
    assert column - (x1 - x0) <= (x0 + x1) / 2 <= column + 1 + (x1 - x0)
    assert row - (y1 - y0) <= (y0 + y1) / 2 <= row + 1 + (y1 - y0)


def test_padding_is_not_shown():
    """In an image twice as wide as high, the upper quarter of the square grid is padding."""
    geometry = PaddedSquare((400, 200), (8, 8), side=112)
    in_padding = heatmap(peak_at((8, 8), (0, 3)), geometry, (400, 200))
    assert in_padding.max() == 0
    first_row = heatmap(peak_at((8, 8), (2, 3)), geometry, (400, 200))
    assert np.unravel_index(first_row.argmax(), first_row.shape)[0] < 50


def test_heat_is_clear_at_the_minimum_and_strong_at_the_peak():
    image = Image.new("RGB", (480, 480), (0, 90, 200))
    geometry = Resized(image.size, (8, 8), cell=28)
    shown = np.asarray(draw_overlay(image, peak_at((8, 8), (1, 6)), geometry))
    inside = shown[16 : 16 + 480, 16 : 16 + 480]
    assert tuple(inside[450, 30]) == (0, 90, 200)
    assert inside[90, 390, 0] > 150  # the peak is a light yellow


def test_boxes_are_drawn_where_they_are_and_crops_beside():
    pixels = np.zeros((480, 480, 3), dtype=np.uint8)
    pixels[100:200, 300:400] = (10, 200, 30)
    box = (300, 100, 400, 200)
    shown = np.asarray(draw_overlay(Image.fromarray(pixels), boxes=[box]))
    frame = tuple(shown[16 + 100, 16 + 350])
    assert frame != (10, 200, 30)
    assert tuple(shown[16 + 199, 16 + 350]) == frame
    assert tuple(shown[16 + 150, 16 + 350]) == (10, 200, 30)
    beside = shown[16:496, 512:]
    assert (beside == (10, 200, 30)).all(axis=-1).sum() > 470**2


@given(
    sizes,
    st.lists(st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)), max_size=3),
    st.lists(st.text(max_size=90), max_size=3),
)
def test_every_image_can_be_shown(size, corners, captions):
    boxes = []
    for x, y in corners:
        x0, y0 = int(x * size[0]), int(y * size[1])
        boxes.append((x0, y0, size[0], size[1]))
    image = Image.new("RGB", size, (120, 130, 140))
    shown = draw_overlay(image, boxes=boxes, captions=captions)
    assert shown.mode == "RGB"
    assert 24 <= shown.width < 1200
    assert shown.height >= 24


def test_large_images_are_reduced():
    shown = draw_overlay(Image.new("RGB", (6000, 4000)))
    assert shown.size == (480 + 32, 320 + 32)


def test_long_captions_wrap_and_add_lines():
    image = Image.new("RGB", (50, 50))
    short = draw_overlay(image, captions=["short"])
    long = draw_overlay(image, captions=["many words " * 30])
    unbroken = draw_overlay(image, captions=["x" * 300])
    assert long.width == unbroken.width == short.width
    assert long.height > short.height + 60
    assert unbroken.height > short.height + 60


def ink(image: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == color).all(axis=-1).sum())


def test_before_and_after_show_right_and_wrong():
    image = Image.new("RGB", (480, 480), (200, 200, 200))
    geometry = Resized(image.size, (8, 8), cell=28)
    shown = draw_before_after(
        image, "what ?", Caption("red", right=False), Caption("blue", right=True),
        roi=peak_at((8, 8), (2, 2)), geometry=geometry, boxes=[(90, 90, 200, 200)],
        note="expected: blue",
    )  # fmt: skip
    green, red = (21, 128, 61), (185, 28, 28)
    middle = 480 + 40
    assert ink(shown.crop((0, 0, middle, shown.height)), red) > 0
    assert ink(shown.crop((middle, 0, shown.width, shown.height)), green) > 0
    assert ink(shown.crop((middle, 0, shown.width, shown.height)), red) == 0


def test_a_map_needs_a_geometry():
    with pytest.raises(ValueError, match="geometry"):
        draw_overlay(Image.new("RGB", (9, 9)), peak_at((2, 2), (0, 0)))

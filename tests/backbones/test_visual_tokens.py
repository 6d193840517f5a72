"""Budgets of visual tokens are those of the stock processor, and planes of pixels are images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from sdrpn_core import Question
from sdrpn_core.errors import ConfigError, ImageError
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_deepseek_vl import tiny_deepseek_vl
from tests.tiny_mistral3 import tiny_mistral3
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl
from tests.tiny_qwen3_vl import tiny_qwen3_vl

DYNAMIC = {"qwen2_5_vl": tiny_qwen2_5_vl, "qwen3_vl": tiny_qwen3_vl, "mistral3": tiny_mistral3}
SIZE = (1200, 900)


@pytest.mark.parametrize("family", DYNAMIC)
@pytest.mark.parametrize("limit", [6, 30, 140])
def test_an_image_fills_its_budget_and_no_more(family, limit):
    backbone = DYNAMIC[family]()
    before = backbone.preprocess(tiny_image(0, SIZE)).geometry.grid
    limited = backbone.with_visual_tokens(limit)
    rows, columns = limited.preprocess(tiny_image(0, SIZE)).geometry.grid
    assert limit / 3 < rows * columns <= limit
    (prompt,) = limited.encode([Question("how many ?", (tiny_image(0, SIZE),))])
    assert prompt.n_visual_tokens == rows * columns
    assert limited.model is backbone.model
    assert limited.dynamic_resolution
    assert backbone.preprocess(tiny_image(0, SIZE)).geometry.grid == before, "a copy is limited"


#: In visual tokens: the minimum of the stock processors, and a published one.
MINIMA = (4, 128)
WITH_MINIMUM = ("qwen2_5_vl", "qwen3_vl")


def with_minimum(family, n_tokens):
    """A tiny model whose processor enlarges what has fewer visual tokens, and reduces nothing."""
    backbone = DYNAMIC[family]()
    if family in WITH_MINIMUM:
        cell = backbone.preprocess(Image.new("RGB", SIZE)).geometry.cell
        processor = backbone.processor.image_processor
        processor.size = {"shortest_edge": n_tokens * cell**2, "longest_edge": 2**30}
    return backbone


BACKBONES = {(name, least): with_minimum(name, least) for name in DYNAMIC for least in MINIMA}


def n_tokens(backbone, image):
    """``None`` for an image that is refused, with or without a budget."""
    try:
        return int(np.prod(backbone.preprocess(image).geometry.grid))
    except ImageError:
        return None


@pytest.mark.parametrize("family", DYNAMIC)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    least=st.sampled_from(MINIMA),
    limit=st.integers(1, 200),
)
@example(width=113, height=59, least=128, limit=100)  # enlarged to the minimum, rounded up
@example(width=58, height=22, least=128, limit=100)
@example(width=690, height=4, least=4, limit=20)  # a row: its height is rounded up
@example(width=700, height=15, least=4, limit=40)
@example(width=4, height=690, least=128, limit=1)
@example(width=113, height=59, least=4, limit=128)
def test_no_image_exceeds_its_budget(family, width, height, least, limit):
    backbone, image = BACKBONES[family, least], Image.new("RGB", (width, height))
    found = n_tokens(backbone.with_visual_tokens(limit), image)
    assert found is None or found <= limit
    if family in WITH_MINIMUM:
        assert (found is None) == (n_tokens(backbone, image) is None), "the budget refuses it"


@pytest.mark.parametrize("family", WITH_MINIMUM)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    least=st.sampled_from(MINIMA),
    limit=st.integers(1, 200),
)
def test_what_needs_no_budget_is_as_without_one(family, width, height, least, limit):
    backbone, image = BACKBONES[family, least], Image.new("RGB", (width, height), (9, 99, 199))
    plain = n_tokens(backbone, image)
    if plain is None or plain > limit:
        return
    found = backbone.with_visual_tokens(limit).preprocess(image)
    expected = backbone.preprocess(image)
    assert found.geometry == expected.geometry
    assert torch.equal(found.tensors["pixel_values"], expected.tensors["pixel_values"])


@pytest.mark.parametrize("family", WITH_MINIMUM)
@given(
    width=st.integers(30, 300),
    height=st.integers(30, 300),
    least=st.sampled_from(MINIMA),
    limit=st.integers(4, 200),
)
@example(width=267, height=267, least=4, limit=4)
def test_an_image_loses_no_more_than_its_budget_asks_for(family, width, height, least, limit):
    """What the minimum enlarges ends above its own pixels, or within a row or column of N."""
    if max(width, height) > 3 * min(width, height):
        return
    backbone = BACKBONES[family, least]
    item = backbone.with_visual_tokens(limit).preprocess(Image.new("RGB", (width, height)))
    rows, columns = item.geometry.grid
    own = round(width / item.geometry.cell) * round(height / item.geometry.cell)
    # The stock processor rounds both sides down, and in floating point also sides that are whole:
    # 267 x 267 pixels, scaled to 2 x 2 tokens, become 1 x 1.
    assert rows * columns >= min(own, limit - rows - columns - 1)


@pytest.mark.parametrize("family", WITH_MINIMUM)
def test_pixels_under_a_budget_are_those_of_the_stock_processor(family):
    backbone, image = BACKBONES[family, 128], tiny_image(0, (113, 59))
    item = backbone.with_visual_tokens(100).preprocess(image)
    tokens = int(np.prod(item.geometry.grid))
    pixels = [
        backbone.processor.image_processor(
            images=[image],
            size={"shortest_edge": least, "longest_edge": least},
            return_tensors="pt",
        )
        for least in range(50_000, 100_000, 500)
    ]
    assert 80 < tokens <= 100
    assert any(
        one["image_grid_thw"].tolist() == item.tensors["image_grid_thw"].tolist()
        and torch.equal(one["pixel_values"], item.tensors["pixel_values"])
        for one in pixels
    )


def test_small_images_are_not_enlarged():
    small = tiny_image(0, (120, 90))
    rows, columns = tiny_qwen2_5_vl().with_visual_tokens(500).preprocess(small).geometry.grid
    assert rows * columns <= 12


@pytest.mark.parametrize("make", [tiny_llava, tiny_deepseek_vl])
def test_a_fixed_resolution_has_no_budget(make):
    backbone = make()
    assert not backbone.dynamic_resolution
    with pytest.raises(ConfigError, match=r"resolution is fixed, .* a budget of 20 cannot be set"):
        backbone.with_visual_tokens(20)


@pytest.mark.parametrize("make", [tiny_qwen2_5_vl, tiny_qwen3_vl, tiny_llava, tiny_mistral3])
def test_a_plane_of_pixels_is_the_image_that_the_encoder_sees(make):
    backbone = make()
    image = tiny_image(0, (240, 240))
    item = backbone.preprocess(image)
    plane = backbone.pixel_plane(item.tensors["pixel_values"], item.geometry.grid)
    processor = backbone.processor.image_processor
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_mean, processor.image_std)
    )
    height, width = plane.shape[1:]
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
    assert (plane * std + mean - expected).abs().max() < 0.02

"""Budgets of visual tokens are those of the stock processor, and planes of pixels are images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sdrpn_core import Question
from sdrpn_core.errors import ConfigError
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

"""Crop budgets and first looks, against the stock processors and stock ``generate()``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sdrpn_core import Question
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.errors import ConfigError, ImageError
from sdrpn_core.testing.regions import FixedRegion
from tests.backbones.stock_answers import our_answers, random_questions, stock_answer
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_deepseek_vl import tiny_deepseek_vl
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_mistral3 import LONGEST, tiny_mistral3
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl
from tests.tiny_qwen3_vl import tiny_qwen3_vl
from tests.tiny_smolvlm import tiny_smolvlm

DYNAMIC = {"qwen2_5_vl": tiny_qwen2_5_vl, "qwen3_vl": tiny_qwen3_vl, "mistral3": tiny_mistral3}
FIXED = {
    "llava": tiny_llava,
    "deepseek_vl": tiny_deepseek_vl,
    "gemma3": tiny_gemma3,
    "smolvlm": tiny_smolvlm,
}
#: The stock processors' default minimum in Qwen-like families; what Mistral's projector needs.
LEAST = {"qwen2_5_vl": 4, "qwen3_vl": 4, "mistral3": 2}


@pytest.fixture(scope="module", params=DYNAMIC)
def family(request):
    return request.param, DYNAMIC[request.param]()


def cell_of(name, backbone):
    return backbone.preprocess(tiny_image(0, (224, 224))).geometry.cell


def shown_grid(item):
    """Rows and columns that show the image."""
    grid = item.geometry.grid
    return (grid[0], grid[1] - 1) if item.geometry.kind == "resized_with_breaks" else grid


def stock_pixels(name, backbone, image):
    """What the stock processor makes of an image that has whole tokens already."""
    processor = backbone.processor.image_processor
    if name == "mistral3":
        return processor(image, patch_size=cell_of(name, backbone), return_tensors="pt")
    size = {"shortest_edge": 1, "longest_edge": 10**9}
    return processor(images=image, size=size, return_tensors="pt")


@pytest.mark.parametrize(
    ("cells", "limit", "grid"),
    [
        ((3, 2), 60, (2, 3)),  # whole tokens
        ((2.2, 3.5), 60, (4, 3)),  # a token that is partly filled is a token
        ((10, 5), 20, (3, 6)),  # over the budget
        ((1, 1), 60, None),  # the family's minimum
        ((6, 3), 1, None),  # and it outranks the budget
    ],
)
def test_a_native_crop_is_what_the_stock_processor_makes_of_its_pixels(family, cells, limit, grid):
    name, backbone = family
    cell = cell_of(name, backbone)
    size = (round(cells[0] * cell), round(cells[1] * cell))
    crop = tiny_image(3, size)
    item = backbone.preprocess_native_crop(crop, limit)
    found = shown_grid(item)
    if grid is None:
        assert found[0] * found[1] >= LEAST[name]
        assert found[0] * found[1] <= 2 * LEAST[name]
    else:
        assert np.prod(item.geometry.grid) <= limit, "row breaks count as well"
        assert found == grid or (name == "mistral3" and limit == 20)
    assert item.geometry.source_size == size
    whole = item.geometry.to_source([[0, 0, *found[::-1]]])
    assert whole.tolist() == [[0, 0, *size]]
    pixels = (found[1] * cell, found[0] * cell)
    resized = crop.resize(pixels, Image.Resampling.BICUBIC)
    expected = stock_pixels(name, backbone, resized)
    assert torch.equal(item.tensors["pixel_values"], expected["pixel_values"])
    if pixels == size:
        plane = backbone.pixel_plane(item.tensors["pixel_values"], found)
        processor = backbone.processor.image_processor
        mean, std = (
            torch.tensor(values)[:, None, None]
            for values in (processor.image_mean, processor.image_std)
        )
        source = torch.from_numpy(np.array(crop)).permute(2, 0, 1) / 255
        assert (plane * std + mean - source).abs().max() < 1e-5, "pixels are not the source's"


def test_the_published_crop_is_enlarged_and_the_native_one_is_not():
    backbone = tiny_qwen2_5_vl(min_pixels=36 * 28**2)
    crop = tiny_image(0, (3 * 28, 2 * 28))
    published, native = backbone.preprocess_crop(crop), backbone.preprocess_native_crop(crop, 64)
    assert np.prod(published.geometry.grid) >= 36
    assert native.geometry.grid == (2, 3)


def test_the_processors_own_maximum_holds(family):
    name, backbone = family
    crop = tiny_image(0, (900, 300))
    limited = backbone.with_visual_tokens(20)
    rows, columns = limited.preprocess_native_crop(crop, 10**6).geometry.grid
    assert rows * columns <= 20
    if name == "mistral3":
        item = backbone.preprocess_native_crop(crop, 10**6)
        assert item.tensors["pixel_values"].shape[-2:] == (LONGEST // 3 // 28 * 28 + 28, LONGEST)


def test_a_crop_that_is_refused_without_a_budget_is_refused_with_one():
    thin = tiny_image(0, (400, 20))
    with pytest.raises(ImageError, match="shorter than a visual token"):
        tiny_qwen2_5_vl().preprocess_native_crop(thin, 60)
    (found,) = answer_batch(
        tiny_qwen2_5_vl(),
        [Question("how many ?", (tiny_image(0, (100, 40)),))],
        FixedRegion(max_tokens=60),
        max_new_tokens=1,
    )
    assert str(found.outcome) == "too_small"


@torch.no_grad()
def test_a_first_look_is_that_of_the_model_with_fewer_tokens(family):
    _, backbone = family
    image, limit = tiny_image(1, (500, 400)), 13
    question = Question("what is it ?", (image, tiny_image(2, (90, 300))), first_look_tokens=limit)
    limited = backbone.with_visual_tokens(limit)
    (coarse,) = backbone.encode([question])
    (expected,) = limited.encode([replace(question, first_look_tokens=None)])
    assert [one.grid for one in coarse.images] == [one.grid for one in expected.images]
    assert all(len(one) <= limit for one in coarse.images)
    assert torch.equal(backbone.embed(coarse), limited.embed(expected))
    assert torch.equal(backbone.positions(coarse), limited.positions(expected))
    plain = answer_batch(backbone, [question], max_new_tokens=3)
    other = answer_batch(limited, [replace(question, first_look_tokens=None)], max_new_tokens=3)
    assert [one.ids for one in plain] == [one.ids for one in other]


@pytest.mark.parametrize("budget", [None, 9], ids=["published crops", "crop budget"])
def test_answers_are_the_stock_models(family, budget):
    """Coarse images, crops from the source: stock ``generate()`` on the same ids and pixels."""
    _, backbone = family
    proposer = FixedRegion(max_tokens=budget)
    questions = [replace(one, first_look_tokens=12) for one in random_questions(5)]
    expected = [stock_answer(backbone, one, proposer) for one in questions]
    for way, found in our_answers(backbone, questions, proposer):
        assert found == expected, way


@pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
def test_a_fixed_resolution_refuses_budgets(make):
    backbone = make()
    question = Question("how many ?", (tiny_image(0),))
    for options, asked in (
        ({"first_look_tokens": 4}, "first_look_tokens=4"),
        ({"proposer": FixedRegion(max_tokens=4)}, "a crop budget of 4"),
    ):
        with pytest.raises(ConfigError, match=rf"resolution is fixed, .* {asked} cannot be set"):
            answer_batch(backbone, [question], max_new_tokens=1, **options)
    with pytest.raises(ConfigError, match=r"resolution is fixed, .* a budget of 4 cannot be set"):
        backbone.encode([replace(question, first_look_tokens=4)])

"""The LLaVA adapter: images, geometry, prompt and presets as LLaVA-1.5 has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.geometry import PaddedSquare
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_llava.backbone import SYSTEM_MESSAGE
from tests.tiny import CHAT_TEMPLATE, CLIP_MEAN, PATCH, tiny_config, tiny_image, tiny_llava

GRID = 4
SIDE = GRID * PATCH
#: One gray level, of the 255, in units of the normalized pixel values.
GRAY_LEVEL = 1 / 255 / 0.26


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID)


def pixels(backbone, image: Image.Image) -> torch.Tensor:
    return backbone.preprocess(image).tensors["pixel_values"]


def stock_pixels(backbone, image: Image.Image) -> torch.Tensor:
    return backbone.processor.image_processor(image, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("side", [56, 57, 30, 200])
def test_a_square_is_what_the_stock_processor_makes_of_it(backbone, side):
    image = tiny_image(0, (side, side))
    found, expected = pixels(backbone, image), stock_pixels(backbone, image)
    assert found.shape == expected.shape == (1, 3, SIDE, SIDE)
    # Two bicubic filters: a gray level here and there, two at the hard edges of a small image.
    assert (found - expected).abs().max() <= 2.01 * GRAY_LEVEL


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (61, 90), (7, 100), (3, 2), (1, 1)])
def test_other_images_are_padded_to_a_centered_square(backbone, size):
    image = tiny_image(1, size)
    side = max(size)
    square = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in CLIP_MEAN))
    assert square.getpixel((0, 0)) == (122, 116, 104)  # published
    square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    found = pixels(backbone, image)
    assert (found - stock_pixels(backbone, square)).abs().max() <= 1.01 * GRAY_LEVEL


def test_padding_is_nearly_zero_after_normalization(backbone):
    found = pixels(backbone, tiny_image(2, (200, 20)))
    assert found[0, :, 0].abs().max() <= 1.01 * GRAY_LEVEL  # whole gray levels, cut off


def test_crops_are_stretched(backbone):
    image = tiny_image(3, (100, 30))
    found = backbone.preprocess_crop(image)
    stretched = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    expected = stock_pixels(backbone, stretched)
    torch.testing.assert_close(found.tensors["pixel_values"], expected, rtol=0, atol=1e-5)
    assert found.geometry.source_size == (100, 30)


@pytest.mark.parametrize("size", [(120, 120), (160, 80), (80, 160), (150, 90), (24, 16)])
def test_a_cell_of_the_geometry_is_the_patch_that_its_pixels_move(backbone, size):
    """Repaint the source pixels under a cell: that cell's patch changes more than any other."""
    image = Image.new("RGB", size, (90, 90, 90))
    item = backbone.preprocess(image)
    assert item.geometry == PaddedSquare(size, (GRID, GRID), side=SIDE)
    before = item.tensors["pixel_values"]
    content = item.geometry.content()
    checked = 0
    for row, column in np.argwhere(content):
        cell = [[column, row, column + 1, row + 1]]
        x0, y0, x1, y1 = item.geometry.to_source(cell)[0].tolist()
        if x1 <= x0 or y1 <= y0:
            continue
        painted = image.copy()
        painted.paste((250, 10, 250), (x0, y0, x1, y1))
        change = (pixels(backbone, painted) - before).abs().sum(1)[0]
        patches = change.unflatten(0, (GRID, PATCH)).unflatten(2, (GRID, PATCH)).sum((1, 3))
        assert patches.argmax() == row * GRID + column
        # Interpolation reaches into the neighbors, and no further.
        rows, columns = np.nonzero(patches.numpy() > 1e-3 * patches.max().item())
        assert abs(rows - row).max() <= 1
        assert abs(columns - column).max() <= 1
        checked += 1
    assert checked >= 4


# Even differences: with odd ones the published geometry is half a source pixel off the padding.
@pytest.mark.parametrize("size", [(9, 5), (5, 9), (2, 4)])
def test_a_pixel_of_a_tiny_image_moves_a_patch_of_its_cells(backbone, size):
    image = Image.new("RGB", size, (90, 90, 90))
    item = backbone.preprocess(image)
    for x in range(size[0]):
        for y in range(size[1]):
            painted = image.copy()
            painted.putpixel((x, y), (250, 10, 250))
            change = pixels(backbone, painted) - item.tensors["pixel_values"]
            patches = change.abs().sum(1)[0].unflatten(0, (GRID, PATCH)).unflatten(2, (GRID, PATCH))
            strongest = divmod(int(patches.sum((1, 3)).argmax()), GRID)
            assert item.geometry.cells_of((x, y, x + 1, y + 1))[strongest]


@pytest.mark.parametrize("size", [(160, 80), (80, 160)])
def test_padding_cells_do_not_depend_on_the_image(backbone, size):
    one, other = (Image.new("RGB", size, color) for color in ("white", "black"))
    change = (pixels(backbone, one) - pixels(backbone, other)).abs().sum(1)[0]
    patches = change.unflatten(0, (GRID, PATCH)).unflatten(2, (GRID, PATCH)).sum((1, 3)).numpy()
    content = backbone.preprocess(one).geometry.content()
    assert 0 < content.sum() < content.size
    # Bicubic interpolation reaches two pixels into the padding.
    assert patches[~content].max() < 0.05 * patches[content].min()


@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE])
@pytest.mark.parametrize("n_images", [0, 1, 2])
def test_the_prompt_is_the_vicuna_conversation(template, n_images):
    backbone = tiny_llava(chat_template=template)
    text = backbone.chat_text("what is it ?", n_images)
    images = "<image>\n" * n_images
    assert text == f"{SYSTEM_MESSAGE} USER: {images}what is it ? ASSISTANT:"
    ids = backbone.tokenize("what is it ?", n_images)
    assert ids[0] == backbone.tokenizer.bos_token_id
    assert ids.count(backbone.tokenizer.bos_token_id) == 1
    assert ids.count(backbone.image_token_id) == n_images


def test_the_system_message_is_the_published_one():
    assert SYSTEM_MESSAGE.startswith("A chat between a curious user and an artificial")
    assert SYSTEM_MESSAGE.endswith("polite answers to the user's questions.")


@torch.no_grad()
def test_logits_are_those_of_the_stock_model_and_processor():
    """The whole way in: stock processor and forward on a square, against segments."""
    backbone = tiny_llava(chat_template=CHAT_TEMPLATE)
    image = tiny_image(4, (SIDE, SIDE))  # no resizing, so that pixels agree exactly
    question = "what color is the square ?"
    inputs = backbone.processor(
        images=image, text=backbone.chat_text(question, 1), return_tensors="pt"
    )
    expected = backbone.model(**inputs).logits
    (prompt,) = backbone.encode([Question(question, (image,))])
    assert len(prompt) == inputs["input_ids"].shape[1]
    found = backbone.model(
        inputs_embeds=backbone.embed(prompt)[None], position_ids=backbone.positions(prompt)[None]
    ).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def configured(n_layers: int, width: int, side: int = 336):
    """A tiny backbone whose config says it is a large one."""
    backbone = tiny_llava()
    config = tiny_config(93)
    config.text_config.num_hidden_layers = n_layers
    config.text_config.hidden_size = width
    config.text_config.num_attention_heads = width // 128
    config.vision_config.image_size = side
    backbone.model.config = config
    return backbone


@pytest.mark.parametrize(
    ("n_layers", "width", "name"), [(32, 4096, "llava-1.5-7b"), (40, 5120, "llava-1.5-13b")]
)
def test_the_preset_is_found_by_the_config(n_layers, width, name):
    preset = configured(n_layers, width).preset
    assert preset.name == name
    assert preset.branch == 15
    assert preset.n_layers == 3
    assert preset.recipe() is preset.recipes["natural"]
    assert max(preset.recipe().layers) < n_layers


def test_the_published_heads_of_the_presets():
    presets = get_plugins().presets
    seven, thirteen = (presets.get(f"llava-1.5-{size}").recipe() for size in ("7b", "13b"))
    assert (seven.grounding, seven.sink) == ({14: (13, 24, 26)}, {2: "all"})
    assert thirteen.grounding == {16: (2, 21, 30), 15: (2,), 13: (21, 23, 26)}
    assert thirteen.sink == {16: (17, 22)}


@pytest.mark.parametrize(
    ("n_layers", "width", "side"), [(32, 4096, 672), (33, 4096, 336), (32, 5120, 336)]
)
def test_without_a_matching_preset_it_says_so(n_layers, width, side):
    with pytest.raises(ConfigError, match=f"no preset matches.*{n_layers} layers of width {width}"):
        _ = configured(n_layers, width, side).preset

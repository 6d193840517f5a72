"""The DeepSeek-VL adapter, with one vision encoder and with two: as the stock classes have it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DeepseekVLHybridImageProcessor, DeepseekVLImageProcessor

from sdrpn_core.answering.answer import answer
from sdrpn_core.backbone.loading import load_backbone
from sdrpn_core.backbone.prompt import ImageSegment
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.grid.geometry import Letterboxed
from sdrpn_core.labeling.stage import label
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.model import RPN
from sdrpn_core.rpn.prediction import predict_roi
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.stage import train
from tests.stage_data import RECIPE, records
from tests.tiny import tiny_image
from tests.tiny_deepseek_vl import (
    GRID,
    HIGH_RES_SIDE,
    SIDE,
    tiny_deepseek_vl,
    tiny_deepseek_vl_hybrid,
    write_tiny_deepseek_vl,
)

MAKERS = {"deepseek_vl": tiny_deepseek_vl, "deepseek_vl_hybrid": tiny_deepseek_vl_hybrid}
QUESTION = "what color is the square ?"
CONVERSATION = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language.\n\nUser: {images}what color is the square ?\n\nAssistant:"
)
#: Finds regions in nearly every random map.
POLICY = {"threshold": 0.5, "max_crops": 99, "max_area_fraction": 1.0, "keep_single": True}
#: Every kind of rounding: odd padding, no scaling, enlarged, a side below the smallest.
SIZES = [(96, 37), (37, 96), (256, 91), (150, 97), (8000, 5), (3, 1000), (24, 16), (64, 64)]


@pytest.fixture(scope="module", params=sorted(MAKERS))
def backbone(request):
    return MAKERS[request.param]()


def squares(backbone, image: Image.Image) -> dict[str, np.ndarray]:
    """Per vision encoder (side, side) float32: the pixels that it sees, summed over the colors."""
    return {
        name: pixels[0].sum(0).numpy()
        for name, pixels in backbone.preprocess(image).tensors.items()
    }


@pytest.mark.parametrize("n_images", [0, 1, 2])
def test_the_prompt_is_the_published_conversation_with_a_template_or_without(backbone, n_images):
    make = MAKERS[backbone.model.config.model_type]
    expected = CONVERSATION.format(images="<image_placeholder>" * n_images)
    for each in (backbone, make(chat_template=None)):
        assert each.chat_text(QUESTION, n_images) == expected
        ids = each.tokenize(QUESTION, n_images)
        assert ids[0] == each.tokenizer.bos_token_id
        assert ids.count(each.tokenizer.bos_token_id) == 1
        assert ids.count(each.image_token_id) == n_images


def test_a_template_of_the_users_own_is_followed(backbone):
    make = MAKERS[backbone.model.config.model_type]
    own = make(chat_template="{{ messages[0]['content'][-1]['text'] }} !")
    assert own.chat_text("how many ?", 0) == "how many ? !"


@pytest.mark.parametrize("sizes", [[(90, 60)], [(40, 120), (333, 77)], []])
@torch.no_grad()
def test_prompts_and_logits_are_those_of_the_stock_processor_and_model(backbone, sizes):
    images = [tiny_image(index, size) for index, size in enumerate(sizes)]
    stock = backbone.processor(
        images=images or None, text=backbone.chat_text(QUESTION, len(images)), return_tensors="pt"
    )
    (prompt,) = backbone.encode([Question(QUESTION, tuple(images))])
    ids = [
        token
        for segment in prompt.segments
        for token in (
            [backbone.image_token_id] * len(segment)
            if isinstance(segment, ImageSegment)
            else segment.ids
        )
    ]
    assert ids == stock["input_ids"][0].tolist()
    for index, image in enumerate(images):
        tensors = backbone.preprocess(image).tensors
        assert tensors.keys() == stock.keys() - {"input_ids", "attention_mask"}
        for name, pixels in tensors.items():
            assert torch.equal(pixels[0], stock[name][index])
    found = backbone.model(
        inputs_embeds=backbone.embed(prompt)[None], position_ids=backbone.positions(prompt)[None]
    ).logits
    torch.testing.assert_close(found, backbone.model(**stock).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_encoder_sees_the_image():
    """A hybrid whose second encoder were lost would still give features of the right shape."""
    backbone = tiny_deepseek_vl_hybrid()
    item = backbone.preprocess(tiny_image(0))
    features = backbone.image_features([item])[0]
    for name, pixels in item.tensors.items():
        blank = type(item)({**item.tensors, name: torch.zeros_like(pixels)}, item.geometry)
        assert (backbone.image_features([blank])[0] - features).abs().max() > 0.1


@torch.no_grad()
def test_images_of_several_shapes_encoded_together_equal_those_alone(backbone):
    inputs = [backbone.preprocess(tiny_image(i, size)) for i, size in enumerate(SIZES)]
    for item, together in zip(inputs, backbone.image_features(inputs), strict=True):
        assert together.shape == (GRID * GRID, backbone.hidden_size)
        (alone,) = backbone.image_features([item])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_half_precision_images_meet_half_precision_weights(backbone):
    half = MAKERS[backbone.model.config.model_type]()
    half.model.to(torch.bfloat16)
    item = half.preprocess(tiny_image(0))
    assert {pixels.dtype for pixels in item.tensors.values()} == {torch.bfloat16}
    (features,) = half.image_features([item])
    (exact,) = backbone.image_features([backbone.preprocess(tiny_image(0))])
    assert features.dtype == torch.bfloat16
    similarity = torch.nn.functional.cosine_similarity(features.float(), exact, dim=-1)
    assert similarity.min() > 0.99


def test_crops_are_letterboxed_like_images(backbone):
    image = tiny_image(3, (100, 30))
    whole, crop = backbone.preprocess(image), backbone.preprocess_crop(image)
    assert crop.geometry == whole.geometry
    for name, pixels in whole.tensors.items():
        assert torch.equal(crop.tensors[name], pixels)


@pytest.mark.parametrize("size", SIZES)
def test_the_image_lies_where_its_geometry_says_to_the_pixel(backbone, size):
    """White against black: only the image's pixels of the larger square change."""
    white, black = (squares(backbone, Image.new("RGB", size, c)) for c in ("white", "black"))
    largest = max(white, key=lambda name: white[name].shape)
    assert white[largest].shape == (backbone.preprocess(Image.new("RGB", size)).geometry.side,) * 2
    geometry = backbone.preprocess(Image.new("RGB", size)).geometry
    x0, y0, x1, y1 = geometry.to_grid([(0, 0, *size)])[0] * geometry.side / GRID
    expected = np.zeros_like(white[largest], dtype=bool)
    expected[round(y0) : round(y1), round(x0) : round(x1)] = True
    np.testing.assert_array_equal(white[largest] != black[largest], expected)
    np.testing.assert_allclose([x0, y0, x1, y1], np.round([x0, y0, x1, y1]), atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_a_painted_box_lies_where_the_geometry_says(backbone, size):
    """Its edges are where interpolation has made half of the change, in both squares."""
    image = Image.new("RGB", size, "black")
    before = squares(backbone, image)
    geometry = backbone.preprocess(image).geometry
    (width, height), checked = size, 0
    for low, high in ((0, 0.4), (0.3, 0.75), (0.5, 1)):
        box = (
            int(width * low),
            int(height * low),
            math.ceil(width * high),
            math.ceil(height * high),
        )
        painted = image.copy()
        painted.paste((255, 255, 255), box)
        after = squares(backbone, painted)
        for name, square in after.items():
            edges = geometry.to_grid([box])[0] * square.shape[0] / GRID
            if min(edges[2] - edges[0], edges[3] - edges[1]) < 4:
                continue  # too few pixels for its middle to be white
            white = square - before[name] > (square - before[name]).max() / 2
            # Through the middle: beside a corner, interpolation overshoots in both directions.
            columns = np.flatnonzero(white[int(edges[1] + edges[3]) // 2])
            rows = np.flatnonzero(white[:, int(edges[0] + edges[2]) // 2])
            found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            np.testing.assert_allclose(found, edges, atol=0.51)
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("size", [(96, 37), (256, 91), (150, 97), (24, 16)])
def test_a_cell_of_the_geometry_is_the_part_of_the_square_that_its_pixels_move(backbone, size):
    """Repaint the source pixels under a cell: most of the change lies in that cell's pixels."""
    image = Image.new("RGB", size, (90, 90, 90))
    geometry, before = backbone.preprocess(image).geometry, squares(backbone, image)
    checked = 0
    for row, column in np.argwhere(geometry.content()):
        x0, y0, x1, y1 = geometry.to_source([[column, row, column + 1, row + 1]])[0].tolist()
        if x1 <= x0 or y1 <= y0:
            continue
        painted = image.copy()
        painted.paste((250, 10, 250), (x0, y0, x1, y1))
        for name, square in squares(backbone, painted).items():
            change = np.abs(square - before[name])
            # Of pixels that straddle two cells (256 / 6 is not whole) the one of their center.
            cell = ((np.arange(len(change)) + 0.5) * GRID / len(change)).astype(int)
            moved = np.zeros((GRID, GRID))
            np.add.at(moved, (cell[:, None], cell[None, :]), change)
            assert moved.argmax() == row * GRID + column
        checked += 1
    assert checked >= 6


def test_the_geometry_says_what_the_processor_did(backbone):
    side = HIGH_RES_SIDE if "hybrid" in backbone.model.config.model_type else SIDE
    geometry = backbone.preprocess(Image.new("RGB", (1000, 1))).geometry
    assert geometry == Letterboxed((1000, 1), (GRID, GRID), side, (side, 14))


@pytest.mark.parametrize(
    ("processor", "side"),
    [(DeepseekVLImageProcessor(), 384), (DeepseekVLHybridImageProcessor(), 1024)],
)
def test_the_checkpoints_sizes_are_the_defaults_of_the_stock_processors(processor, side):
    """As above at 384 and at 1024, where 24 cells are not whole pixels."""
    base = tiny_deepseek_vl() if side == 384 else tiny_deepseek_vl_hybrid()
    base.processor.image_processor = processor
    base.model.config.vision_config.image_size = 384
    geometry = base.preprocess(tiny_image(0, (640, 427))).geometry
    assert geometry == Letterboxed((640, 427), (24, 24), side, (side, round(427 * side / 640)))


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_images_of_extreme_shapes_are_answered(backbone, size):
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2, policy_options=POLICY)
    found = answer(backbone, tiny_image(0, size), QUESTION, rpn=rpn, max_new_tokens=2)
    assert found.ids
    for x0, y0, x1, y1 in found.boxes:
        assert 0 <= x0 < x1 <= size[0]
        assert 0 <= y0 < y1 <= size[1]


def test_more_tokens_than_the_context_is_an_error_that_says_both(backbone):
    short = MAKERS[backbone.model.config.model_type](max_position_embeddings=80)
    with pytest.raises(InputError, match=r"8[0-9] tokens .* exceeds the context of 80 tokens"):
        answer(short, tiny_image(0), QUESTION, max_new_tokens=2)


def test_a_question_that_spells_out_the_placeholder_shows_no_image(backbone):
    (prompt,) = backbone.encode([Question("what is <image_placeholder> ?", (tiny_image(0),))])
    assert len(prompt.images) == 1


def test_a_saved_folder_is_labeled_trained_and_asked(backbone, tmp_path):
    hybrid = "hybrid" in backbone.model.config.model_type
    loaded = load_backbone(write_tiny_deepseek_vl(tmp_path / "model", hybrid=hybrid))
    assert type(loaded) is type(backbone)
    summary = label(
        loaded, records(4), tmp_path / "labels", recipe=RECIPE, max_new_tokens=3, progress=False
    )
    assert summary.counts["ok"] == 4
    result = train(
        loaded,
        tmp_path / "labels",
        tmp_path / "run",
        config=RPNConfig(branch=2, n_layers=2, policy_options=POLICY),
        settings=TrainingSettings(max_steps=2, global_batch_size=4, learning_rate=1e-3),
        progress=False,
    )
    assert result.steps == 2
    rpn = RPN.from_pretrained(result.folder, backbone=loaded)
    (roi,) = predict_roi(loaded, tiny_image(0), QUESTION, rpn)
    assert roi.scores.shape == (GRID, GRID)
    plain = answer(loaded, tiny_image(0), QUESTION, max_new_tokens=4)
    stock = loaded.processor(
        images=tiny_image(0), text=loaded.chat_text(QUESTION, 1), return_tensors="pt"
    )
    tokens = loaded.model.generate(**stock, max_new_tokens=4)[0, stock["input_ids"].shape[1] :]
    assert list(plain.ids) == tokens.tolist()
    found = answer(loaded, tiny_image(0), QUESTION, rpn=rpn, max_new_tokens=4)
    assert found.outcome is Outcome.OK
    assert found.n_visual_tokens == GRID * GRID * (1 + len(found.boxes))


def configured(make, n_layers: int, width: int):
    """A tiny backbone whose config says it is a large one."""
    backbone = make()
    backbone.model.config.text_config.num_hidden_layers = n_layers
    backbone.model.config.text_config.hidden_size = width
    backbone.model.config.vision_config.image_size = 384
    return backbone


@pytest.mark.parametrize(
    ("make", "n_layers", "width", "name", "branch"),
    [
        (tiny_deepseek_vl, 24, 2048, "deepseek-vl-1.3b", 11),
        (tiny_deepseek_vl_hybrid, 30, 4096, "deepseek-vl-7b", 14),
    ],
)
def test_presets_are_provisional_and_have_no_recipe(make, n_layers, width, name, branch):
    preset = configured(make, n_layers, width).preset
    assert (preset.name, preset.branch, preset.n_layers) == (name, branch, 3)
    assert preset.source.startswith("provisional")
    assert RPNConfig.from_preset(preset).branch == branch
    for recipe in (None, "natural"):
        with pytest.raises(ConfigError, match=f"'{name}' has no label recipe.*`sdrpn heads`"):
            preset.recipe(recipe)


def test_other_sizes_have_no_preset():
    for make, n_layers, width in (
        (tiny_deepseek_vl, 30, 4096),
        (tiny_deepseek_vl_hybrid, 24, 2048),
    ):
        with pytest.raises(ConfigError, match="no preset matches"):
            _ = configured(make, n_layers, width).preset

"""The Qwen2.5-VL adapter: images, positions, prompt, errors, presets; against stock classes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from sdrpn_core.answering.answer import answer, answer_batch
from sdrpn_core.backbone.prompt import ImageSegment, Prompt, TextSegment
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.crops.policy import make_policy
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError, ImageError, InputError
from sdrpn_core.grid.geometry import Resized
from sdrpn_core.labeling.record_labeler import RecordLabeler
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.runtime.generation import generate, prompt_block
from sdrpn_core.training.settings import TrainingSettings
from tests.tiny import tiny_image
from tests.tiny_qwen2_5_vl import (
    CELL,
    MAX_TOKENS,
    MIN_TOKENS,
    tiny_config,
    tiny_qwen2_5_vl,
    tiny_tokenizer,
)

SIZES = [(90, 60), (60, 90), (112, 112), (28, 28), (500, 333), (1000, 10), (7, 100), (3, 2), (1, 1)]


@pytest.fixture(scope="module")
def backbone():
    return tiny_qwen2_5_vl()


def stock_inputs(backbone, question, images):
    """What the stock processor makes of a question; its grids and pixels are those of the model."""
    return backbone.processor(
        images=list(images) or None,
        text=backbone.chat_text(question, len(images)),
        return_tensors="pt",
    )


# -- images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_an_image_is_what_the_stock_processor_makes_of_it(backbone, size):
    image = tiny_image(0, size)
    item = backbone.preprocess(image)
    expected = backbone.processor.image_processor(images=image, return_tensors="pt")
    assert torch.equal(item.tensors["pixel_values"], expected["pixel_values"])
    assert torch.equal(item.tensors["image_grid_thw"], expected["image_grid_thw"])
    h, w = item.geometry.grid
    assert item.geometry == Resized(size, (h, w), CELL)
    assert MIN_TOKENS <= h * w <= MAX_TOKENS
    assert item.geometry.to_source([[0, 0, w, h]]).tolist() == [[0, 0, *size]]


@pytest.mark.parametrize(
    ("least", "most", "grid"),
    [(1, 4, (2, 1)), (1, 16, (4, 3)), (4, 30, (6, 5)), (40, 60, (7, 6))],
)
def test_the_budget_of_the_processor_is_honored(least, most, grid):
    backbone = tiny_qwen2_5_vl(min_pixels=least * CELL**2, max_pixels=most * CELL**2)
    image = tiny_image(0, (5 * CELL, 6 * CELL))  # 30 tokens as it is
    assert backbone.preprocess(image).geometry.grid == grid
    crop = backbone.preprocess_crop(image.crop((0, 0, CELL, CELL)))
    rows, columns = crop.geometry.grid
    assert least <= rows * columns <= most


@torch.no_grad()
def test_features_of_several_images_are_the_stock_encoders(backbone):
    """Merged 2 x 2, windows undone, each with its own grid."""
    sizes = [(300, 250), (90, 60), (60, 400)]
    images = [tiny_image(seed, size) for seed, size in enumerate(sizes)]
    items = [backbone.preprocess(image) for image in images]
    inputs = backbone.processor.image_processor(images=images, return_tensors="pt")
    stock = backbone.model.model.visual(
        inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]
    ).pooler_output
    ours = backbone.image_features(items)
    assert [len(features) for features in ours] == [np.prod(i.geometry.grid) for i in items]
    torch.testing.assert_close(torch.cat(ours), stock, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_windows_matter():
    """The tiny encoder attends within windows: without them its features differ."""
    windowed = tiny_qwen2_5_vl()
    item = windowed.preprocess(tiny_image(0, (8 * CELL, 8 * CELL)))
    assert item.geometry.grid == (8, 8)  # four windows
    (before,) = windowed.image_features([item])
    windowed.model.model.visual.fullatt_block_indexes = [0, 1, 2]
    (after,) = windowed.image_features([item])
    assert (before - after).abs().max() > 1e-2


@pytest.mark.parametrize("size", [(112, 84), (300, 250), (60, 200)])
def test_a_cell_of_the_geometry_is_the_token_that_its_pixels_move(backbone, size):
    """Repaint the source pixels under a cell: the pixels of that token change most."""
    image = Image.new("RGB", size, (90, 90, 90))
    item = backbone.preprocess(image)
    h, w = item.geometry.grid
    before = item.tensors["pixel_values"]
    for row in range(h):
        for column in range(w):
            ((x0, y0, x1, y1),) = item.geometry.to_source([[column, row, column + 1, row + 1]])
            painted = image.copy()
            painted.paste((250, 10, 250), (x0, y0, x1, y1))
            change = (backbone.preprocess(painted).tensors["pixel_values"] - before).abs().sum(1)
            # The four patches of a token follow each other, token by token in raster order.
            assert change.view(h * w, 4).sum(1).argmax() == row * w + column


# -- what cannot be encoded ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(3000, 10), (1, 500)])
def test_an_aspect_ratio_beyond_the_processors_limit(backbone, size):
    width, height = size
    message = rf"an image of {width}x{height} pixels is refused: .*aspect ratio.*200"
    image = Image.new("RGB", size)
    with pytest.raises(ImageError, match=message):
        backbone.preprocess(image)
    with pytest.raises(ImageError, match=message):
        answer(backbone, image, "what is it ?")
    record = Record(id="long", question="what is it ?", images=image)
    recipe = get_plugins().presets.get("qwen2.5-vl-3b").recipe("text")
    labeler = RecordLabeler(backbone, recipe, max_new_tokens=2)
    (row,) = labeler.rows([labeler.prepare(0, record)])
    assert "aspect ratio" in row.reason


def test_an_image_of_one_pixel_is_enlarged(backbone):
    """As the stock processor does; a crop that small is refused."""
    pixel = Image.new("RGB", (1, 1), (200, 10, 10))
    found = answer(backbone, pixel, "what color is it ?", max_new_tokens=4)
    assert found.n_visual_tokens == MIN_TOKENS
    with pytest.raises(ImageError, match=r"1x1 pixels is shorter than a visual token \(28\)"):
        backbone.preprocess_crop(pixel)


@pytest.mark.parametrize("size", [(28, 28), (28, 400), (400, 28)])
def test_crops_of_a_whole_token_are_encoded(backbone, size):
    assert backbone.preprocess_crop(Image.new("RGB", size)).geometry.source_size == size


@pytest.mark.parametrize("size", [(27, 400), (400, 27), (27, 27)])
def test_smaller_crops_are_refused(backbone, size):
    with pytest.raises(ImageError, match="shorter than a visual token"):
        backbone.preprocess_crop(Image.new("RGB", size))


def test_more_visual_tokens_than_the_context():
    backbone = tiny_qwen2_5_vl(max_position_embeddings=64)
    with pytest.raises(InputError, match=r"context of 64 tokens.*smaller or.*shorter question"):
        answer(backbone, tiny_image(0, (300, 300)), "what is it ?", max_new_tokens=4)


# -- positions -----------------------------------------------------------------------------------


def stock_positions(backbone, ids, grids):
    """``get_rope_index`` of a sequence whose images have these grids, in tokens."""
    kinds = [int(token == backbone.image_token_id) for token in ids]
    merge = backbone.model.config.vision_config.spatial_merge_size
    thw = torch.tensor([(1, h * merge, w * merge) for h, w in grids])
    positions, _ = backbone.model.model.get_rope_index(
        input_ids=torch.tensor([ids]),
        mm_token_type_ids=torch.tensor([kinds], dtype=torch.int32),
        image_grid_thw=thw,
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
    )
    return positions[:, 0]


@pytest.mark.parametrize("seed", range(20))
def test_positions_are_the_stock_ones(backbone, seed):
    """Random texts and grids, up to four images, some of them crops."""
    draw = random.Random(seed)
    segments, ids, grids = [], [], []
    for index in range(draw.randint(1, 4)):
        text = tuple(draw.choices(range(20, 60), k=draw.randint(1, 7)))
        grid = (draw.randint(1, 9), draw.randint(1, 9))
        n = grid[0] * grid[1]
        geometry = None if index % 2 else Resized((100, 100), grid, CELL)
        image = ImageSegment(torch.zeros(n, 64), grid, geometry)
        segments += [TextSegment(text), image]
        ids += [*text, *[backbone.image_token_id] * n]
        grids.append(grid)
    tail = (21, 22, 23)
    prompt = Prompt((*segments, TextSegment(tail)))
    expected = stock_positions(backbone, [*ids, *tail], grids)
    assert torch.equal(backbone.positions(prompt), expected)


def test_dropped_tokens_leave_gaps(backbone):
    """Positions of the whole sequence, filtered: what follows does not move."""
    grid, keep = (3, 4), torch.zeros(3, 4, dtype=torch.bool)
    keep[1, 2] = keep[2, 0] = True
    whole = ImageSegment(torch.zeros(12, 64), grid)
    before, after = TextSegment((21, 22)), TextSegment((23, 24))
    full = backbone.positions(Prompt((before, whole, after)))
    part = backbone.positions(Prompt((before, whole.masked(keep.numpy()), after)))
    flags = torch.cat([torch.ones(2), keep.flatten(), torch.ones(2)]).bool()
    assert torch.equal(part, full[:, flags])


def test_text_alone_has_one_position_for_all_axes(backbone):
    (prompt,) = backbone.encode([Question("what is it ?")])
    expected = torch.arange(len(prompt)).expand(3, -1)
    assert torch.equal(backbone.positions(prompt), expected)


# -- prompts and answers -------------------------------------------------------------------------

IMAGES = (tiny_image(1, (200, 90)), tiny_image(2, (90, 160)), tiny_image(3, (60, 60)))


def test_the_prompt_is_the_processors_chat(backbone):
    text = backbone.chat_text("what is it ?", 2)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text.endswith(
        f"<|im_start|>user\n{image * 2}what is it ?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text.startswith("<|im_start|>system\n")


@torch.no_grad()
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("n_images", [0, 1, 3])
def test_logits_and_answers_are_those_of_the_stock_model_and_processor(
    attn_implementation, n_images
):
    backbone = tiny_qwen2_5_vl(attn_implementation=attn_implementation)
    images, text = IMAGES[:n_images], "what color is the square ?"
    inputs = stock_inputs(backbone, text, images)
    question = Question(text, images)
    (prompt,) = backbone.encode([question])
    assert len(prompt) == inputs["input_ids"].shape[1]
    block = prompt_block(backbone, [prompt])
    found = backbone.model(
        inputs_embeds=block.embeds, position_ids=block.positions, attention_mask=block.mask
    ).logits
    torch.testing.assert_close(found, backbone.model(**inputs).logits, rtol=1e-4, atol=1e-4)
    stock = backbone.model.generate(**inputs, max_new_tokens=8)[0, len(prompt) :].tolist()
    (answered,) = answer_batch(backbone, [question], max_new_tokens=8)
    end = backbone.model.generation_config.eos_token_id
    assert list(answered.ids) == (stock[: stock.index(end)] if end in stock else stock)


def test_decoding_goes_on_behind_the_highest_position(backbone):
    """In every row of a batch its own, whatever the padding."""
    questions = [Question("what is it ?", IMAGES[:2]), Question("how many ?", IMAGES[2:])]
    questions.append(Question("which one ?"))
    prompts = backbone.encode(questions)
    seen = []
    handle = backbone.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["position_ids"].clone()), with_kwargs=True
    )
    generate(backbone, prompt_block(backbone, prompts), max_new_tokens=4)
    handle.remove()
    last = [int(backbone.positions(prompt).max()) for prompt in prompts]
    assert len(seen) == 4
    for step, positions in enumerate(seen[1:], 1):
        assert positions.shape == (3, 3, 1)
        assert positions[..., 0].tolist() == [[top + step for top in last]] * 3


def test_one_answer_leaves_nothing_behind_for_the_next(backbone):
    """The stock model remembers an offset of positions; ours are given every time."""
    fresh = tiny_qwen2_5_vl()
    questions = [Question("what is it ?", IMAGES[:1]), Question("how many ?")]
    expected = [answer_batch(fresh, [question], max_new_tokens=6)[0].ids for question in questions]
    for question, ids in [*zip(questions, expected, strict=True)] * 2:
        assert answer_batch(backbone, [question], max_new_tokens=6)[0].ids == ids


def test_crops_stand_between_vision_tokens(backbone):
    config = backbone.model.config
    crop = ImageSegment(torch.zeros(4, 64), (2, 2))
    start, middle, end = backbone.frame_crop(crop)
    assert middle is crop
    assert (start.ids, end.ids) == (
        (config.vision_start_token_id,),
        (config.vision_end_token_id,),
    )


# -- presets -------------------------------------------------------------------------------------


def configured(n_layers: int, width: int):
    """A tiny backbone whose config says it is a large one."""
    backbone = tiny_qwen2_5_vl()
    config = tiny_config(tiny_tokenizer())
    config.text_config.num_hidden_layers = n_layers
    config.text_config.hidden_size = width
    config.text_config.num_attention_heads = width // 128
    backbone.model.config = config
    return backbone


@pytest.mark.parametrize(
    ("n_layers", "width", "name", "branch"),
    [(36, 2048, "qwen2.5-vl-3b", 21), (28, 3584, "qwen2.5-vl-7b", 16)],
)
def test_the_preset_is_found_by_the_config(n_layers, width, name, branch):
    preset = configured(n_layers, width).preset
    assert (preset.name, preset.branch, preset.n_layers) == (name, branch, 3)
    assert list(preset.recipes) == ["natural", "text"]
    for recipe in preset.recipes.values():
        assert max(recipe.layers) < n_layers
        assert (recipe.sink_threshold, recipe.min_peak) == (1e-2, 5e-3)
        assert recipe.box_blur
        assert recipe.padding_is_sink
    config = RPNConfig.from_preset(preset)
    assert config.head_options["rope"] is True
    assert config.final_norm is False
    settings = TrainingSettings(**preset.training)
    assert (settings.learning_rate, settings.global_batch_size) == (1e-4, 128)


@pytest.mark.parametrize(("n_layers", "width"), [(6, 64), (36, 3584), (64, 5120)])
def test_without_a_matching_preset_it_says_so(n_layers, width):
    with pytest.raises(ConfigError, match=f"no preset matches.*{n_layers} layers of width {width}"):
        _ = configured(n_layers, width).preset


def test_the_published_heads():
    presets = get_plugins().presets
    three, seven = (presets.get(f"qwen2.5-vl-{size}").recipes for size in ("3b", "7b"))
    assert three["natural"].grounding == {21: (9, 11), 22: (0, 7)}
    assert three["natural"].sink == {8: (1, 13)}
    assert three["text"].grounding == {20: (1, 4), 22: (14,)}
    assert seven["natural"].grounding == {16: (1, 7, 17), 19: (17, 20)}
    assert seven["natural"].sink == {9: (4, 22)}
    assert seven["text"].grounding == {22: (1, 4), 23: (6, 11)}
    assert three["text"].sink == seven["text"].sink == {}


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_the_high_resolution_rules_are_on_in_the_presets_and_off_by_default(size):
    preset = get_plugins().presets.get(f"qwen2.5-vl-{size}")
    policy = make_policy(preset.policy, dict(preset.policy_options))
    assert isinstance(policy, MaskPolicy)
    assert (policy.corner_sink_above, policy.prune_above) == (768, 1024)
    assert (policy.prune_threshold, policy.min_regions) == (0.01, 1)
    assert (MaskPolicy().corner_sink_above, MaskPolicy().prune_above) == (None, None)


# -- labeling -----------------------------------------------------------------------------------


def test_natural_images_are_asked_for_the_place_and_keep_their_question():
    """For generated responses alone, the recipe's instruction replaces the one to be brief."""
    natural = get_plugins().presets.get("qwen2.5-vl-3b").recipe("natural")
    brief = "Answer the question using a single word or phrase."
    asked = natural.labeling_question(f"What is it?\n{brief}")
    assert asked.startswith("What is it?\n")
    assert "bounding box" in asked
    assert brief not in asked
    assert natural.labeling_question("What is it?") == asked
    text = get_plugins().presets.get("qwen2.5-vl-3b").recipe("text")
    assert text.labeling_question(f"What is it?\n{brief}") == f"What is it?\n{brief}"

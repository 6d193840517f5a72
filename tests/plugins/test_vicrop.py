"""ViCrop's maps against stock eager attention and autograd, its window against plain loops."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import median_filter
from torch.nn import functional as F

from sdrpn_bench.input_side import input_side
from sdrpn_bench.method import MethodContext
from sdrpn_core import RPN, LabelRecipe, Question, answer_batch
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.token_layers import TokenLayerCounter
from sdrpn_core.backbone.decoder import FULL_ATTENTION, layer_kinds
from sdrpn_core.crops.policy import make_policy
from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.geometry import PaddedSquare, Resized
from sdrpn_core.testing.subject import ContractSubject
from sdrpn_llava.backbone import LlavaBackbone
from sdrpn_vicrop.maps import gradient_attention, has_detail, pure_gradient, relative_attention
from sdrpn_vicrop.methods import (
    ViCrop,
    ViCropGradientAttention,
    ViCropPureGradient,
    chosen_layer,
)
from sdrpn_vicrop.window import RATIOS, find_window
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_deepseek_vl import tiny_deepseek_vl
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_mistral3 import tiny_mistral3
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl
from tests.tiny_qwen3_vl import tiny_qwen3_vl
from tests.tiny_smolvlm import tiny_smolvlm

LAYER = 3
GENERIC = "what is on the image ?"
TEXTS = ("what color is the small dot ?", "how many ?", "which letter is on the left ?")

FAMILIES = {
    "llava": tiny_llava,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "deepseek_vl": tiny_deepseek_vl,
    "qwen3_vl": tiny_qwen3_vl,
    "gemma3": tiny_gemma3,
    "mistral3": tiny_mistral3,
    "smolvlm": tiny_smolvlm,
}


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request):
    return FAMILIES[request.param]()


def questions(backbone):
    """Three of different length about images of different shape."""
    sizes = ((240, 160), (160, 240), (150, 150))
    return [
        Question(text, (tiny_image(seed, size),))
        for seed, (text, size) in enumerate(zip(TEXTS, sizes, strict=True))
    ]


def layer_of(backbone):
    """A layer that sees the whole image, if there is one."""
    kinds = layer_kinds(backbone.decoder)
    full = [layer for layer in range(LAYER + 1) if kinds[layer] == FULL_ATTENTION]
    return max(full, default=LAYER)


def maps_of(backbone, asked, read_maps):
    """In the batches that the decoder can go on with."""
    state, found = prefill(backbone, asked), {}
    for indices, part in state.parts():
        found.update(zip(indices, read_maps(part), strict=True))
    return [found[index] for index in range(len(asked))]


@contextmanager
def eager(backbone):
    """The stock implementation that returns attention weights."""
    before = backbone.decoder.config._attn_implementation
    backbone.decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        backbone.decoder.set_attn_implementation(before)


def stock_pass(backbone, text, image, pixels=None):
    """The stock model on ids and pixels: its output, the image's span and grid."""
    (prompt,) = backbone.encode([Question(text, (image,))])
    ids = torch.tensor([backbone.token_ids(prompt)])
    item = backbone.preprocess(image)
    inputs = ContractSubject.stock_inputs(backbone, prompt, ids, [item])
    if pixels is not None:
        inputs["pixel_values"] = pixels
    output = backbone.model(
        **inputs, attention_mask=torch.ones_like(ids), output_attentions=pixels is None
    )
    return output, prompt.image_spans[0], prompt.images[0].grid


def certainty(output):
    return -torch.nn.functional.cross_entropy(
        output.logits[:, -1].float(), output.logits[:, -1].argmax(dim=-1)
    )


def stock_relative(backbone, question):
    rows = []
    with eager(backbone), torch.no_grad():
        for text in (question.text, GENERIC):
            output, (start, stop), grid = stock_pass(backbone, text, question.images[0])
            row = output.attentions[layer_of(backbone)][0, :, -1, start:stop].mean(dim=0)
            rows.append(row.reshape(grid).numpy())
    # Outside a window nothing is attended to.
    return np.divide(*rows, out=np.zeros_like(rows[0]), where=rows[1] > 0)


def stock_gradient_attention(backbone, question):
    (image,) = question.images
    with eager(backbone), torch.enable_grad():
        embedding = backbone.embedding.weight
        embedding.requires_grad_(True)  # what the published code has by not freezing anything
        try:
            output, (start, stop), grid = stock_pass(backbone, question.text, image)
            attention = output.attentions[layer_of(backbone)]
            (gradient,) = torch.autograd.grad(certainty(output), attention)
        finally:
            embedding.requires_grad_(False)
    weighted = (attention * gradient.relu())[0, :, -1, start:stop].mean(dim=0)
    return weighted.detach().reshape(grid).numpy()


def stock_pixel_norms(backbone, text, image):
    item = backbone.preprocess(image)
    pixels = item.tensors["pixel_values"].clone().requires_grad_()
    with torch.enable_grad():
        output, _, grid = stock_pass(backbone, text, image, pixels)
        (gradient,) = torch.autograd.grad(certainty(output), pixels)
    return np.linalg.norm(backbone.pixel_plane(gradient, grid).numpy(), axis=0)


def assert_maps_equal(found, expected, tolerance=2e-4):
    assert len(found) == len(expected)
    for (one,), other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.ptp(other) > 1e-3 * np.abs(other).max(), "a flat map proves nothing"
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=tolerance * np.abs(other).max())


def test_relative_attention_is_that_of_stock_eager_attention(backbone):
    asked = questions(backbone)
    found = maps_of(
        backbone, asked, lambda part: relative_attention(part, layer_of(backbone), GENERIC)
    )
    assert_maps_equal(found, [stock_relative(backbone, question) for question in asked])


def test_gradient_attention_is_that_of_autograd_on_the_stock_model(backbone):
    asked = questions(backbone)
    found = maps_of(backbone, asked, lambda part: gradient_attention(part, layer_of(backbone)))
    assert_maps_equal(found, [stock_gradient_attention(backbone, question) for question in asked])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "deepseek_vl", "mistral3", "smolvlm"])
def test_pure_gradients_are_those_of_autograd_on_the_stock_model(family):
    backbone = FAMILIES[family]()
    asked = questions(backbone)
    found = pure_gradient(prefill(backbone, asked), GENERIC)
    expected = []
    for question in asked:
        (image,) = question.images
        own = stock_pixel_norms(backbone, question.text, image)
        general = stock_pixel_norms(backbone, GENERIC, image)
        item = backbone.preprocess(image)
        plane = backbone.pixel_plane(item.tensors["pixel_values"], item.geometry.grid)
        std = torch.tensor(backbone.processor.image_processor.image_std)[:, None, None]
        ratio = np.divide(own, general, out=np.zeros_like(own), where=general > 0)
        ratio = ratio * has_detail(plane * std)  # its own test is the next one
        rows, columns = item.geometry.grid
        columns -= family == "mistral3"  # the row breaks
        cells = ratio.reshape(rows, ratio.shape[0] // rows, columns, -1).mean(axis=(1, 3))
        expected.append(np.pad(cells, ((0, 0), (0, int(family == "mistral3")))))
    assert_maps_equal(found, expected)


class Patches(LlavaBackbone):
    """A family whose processor cuts images into patches, of which the adapter says no more."""

    def preprocess(self, image):
        item = super().preprocess(image)
        pixels = F.unfold(item.tensors["pixel_values"], kernel_size=14, stride=14)[0].T
        return replace(item, tensors={**item.tensors, "pixel_values": pixels})


def test_pure_gradients_are_left_out_where_pixels_cannot_be_told_apart():
    healthy = tiny_llava()
    assert ViCropPureGradient().unserved(MethodContext(healthy)) is None
    backbone = Patches(healthy.model, healthy.processor, name="patches")
    reason = ViCropPureGradient().unserved(MethodContext(backbone))
    assert reason == (
        "patches: its pixel_values of shape (16, 588) are no plane of pixels, and the family's "
        "adapter does not offer pixel_plane"
    )
    item = backbone.preprocess(tiny_image(0, (60, 60)))
    with pytest.raises(ConfigError, match="no plane of pixels"):
        backbone.pixel_plane(item.tensors["pixel_values"], item.geometry.grid)


def detail_by_definition(plane):
    """A Gaussian of sigma 0.8 subtracted, the norm over channels, a median filter, the median."""
    weights = np.exp(-0.5 * (np.arange(-1, 2) / 0.8) ** 2)
    weights /= weights.sum()
    padded = np.pad(plane, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    height, width = plane.shape[1:]
    blurred = sum(
        weights[i] * weights[j] * padded[:, i : i + height, j : j + width]
        for i in range(3)
        for j in range(3)
    )
    strength = median_filter(np.sqrt(((plane - blurred) ** 2).sum(axis=0)), size=7)
    return strength > np.median(strength)


def test_detail_is_where_the_image_changes():
    plane = torch.zeros(3, 40, 40)
    plane[:, 10:20, ::2] = 1
    found = has_detail(plane)
    assert found[12:18, 5:35].all()
    assert not found[25:].any()
    noise = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(0))
    differs = has_detail(noise) != detail_by_definition(noise.numpy().astype(float))
    assert differs.mean() < 1e-3  # rounding decides at the median


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_gradients_of_attention_need_no_implementation_of_their_own(implementation):
    backbone = tiny_llava(attn_implementation=implementation)
    asked = questions(backbone)[:1]
    found = gradient_attention(prefill(backbone, asked), LAYER)
    assert_maps_equal(found, [stock_gradient_attention(backbone, asked[0])])
    assert backbone.decoder.config._attn_implementation == implementation


def test_nothing_before_the_layer_is_differentiated():
    backbone = tiny_llava()
    state = prefill(backbone, questions(backbone))
    with TokenLayerCounter(backbone) as counter:
        gradient_attention(state, LAYER)
    rest = state.rest()
    assert counter.token_layers == rest.mask.numel() * backbone.n_layers
    assert counter.backward_token_layers == rest.mask.numel() * (backbone.n_layers - LAYER - 1)
    with TokenLayerCounter(backbone) as counter:
        pure_gradient(state, GENERIC)
    assert counter.backward_token_layers == counter.token_layers
    with TokenLayerCounter(backbone) as counter:
        relative_attention(state, LAYER, GENERIC)
    generic = (
        len(backbone.tokenize(GENERIC, 1))
        - len(backbone.tokenize(TEXTS[0], 1))
        + (len(state.prompts[0]) - len(state.prefixes[0]))
    )
    assert counter.token_layers == (rest.mask.numel() + 3 * generic) * (LAYER + 1)
    assert counter.backward_token_layers == 0


def window_by_loops(scores, size, side):
    """The search as it is published, for a map that covers the image; cell by cell."""
    rows, columns = scores.shape
    scores = scores.tolist()  # plain floats: in single precision, the mean would be rounded
    width, height = size
    across, down = width / columns, height / rows
    found = []
    for ratio in RATIOS:
        n_x = max(1, min(int(side * ratio / across), columns))
        n_y = max(1, min(int(side * ratio / down), rows))
        if n_x == columns and n_y == rows:
            break
        sums = {}
        for x in range(columns - n_x + 1):
            for y in range(rows - n_y + 1):
                sums[x, y] = sum(scores[y + j][x + i] for j in range(n_y) for i in range(n_x))
        x, y = max(sums, key=lambda place: sums[place])
        around = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
        near = [sums[place] for place in around if place in sums]
        found.append(((sums[x, y] - sum(near) / len(near)) / (n_x * n_y), ratio, x, y, n_x, n_y))
    if not found:
        return 0, 0, width, height
    _, ratio, x, y, n_x, n_y = max(found, key=lambda one: one[0])
    half = int(side * ratio // 2)
    box = []
    for first, n, pixels, length in ((x, n_x, across, width), (y, n_y, down, height)):
        center = min(max(int(first * pixels + pixels * n / 2), half), length - half)
        box.append((max(0, center - half), min(length, center + half)))
    return box[0][0], box[1][0], box[0][1], box[1][1]


@settings(max_examples=150, deadline=None)
@example(grid=(9, 2), size=(160, 714), side=159, seed=18842)
@given(
    grid=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    size=st.tuples(st.integers(20, 900), st.integers(20, 900)),
    side=st.integers(10, 500),
    seed=st.integers(0, 10**6),
)
def test_the_window_is_that_of_the_published_search(grid, size, side, seed):
    scores = np.random.default_rng(seed).integers(0, 64, grid).astype(np.float32)
    found = find_window(scores, Resized(size, grid, cell=14), side)
    assert found == window_by_loops(scores, size, side)


def test_padding_takes_no_part_in_the_search():
    geometry = PaddedSquare((600, 300), (12, 12), side=168)
    scores = np.ones((12, 12), dtype=np.float32)
    scores[:3] = 50  # above the image
    scores[4, 8] = 5
    x0, y0, x1, y1 = find_window(scores, geometry, 100)
    assert x0 <= 400 < 450 <= x1 + 50
    assert y0 <= 50 < y1 <= 300
    # What the image shows, alone: the padding is three whole rows above and below.
    alone = find_window(scores[3:9], Resized((600, 300), (6, 12), cell=14), 100)
    assert (x0, y0, x1, y1) == alone


def test_a_window_that_covers_the_image_is_the_image():
    assert find_window(np.eye(4), Resized((90, 50), (4, 4), cell=14), 100) == (0, 0, 90, 50)


METHODS = (ViCrop(layer=LAYER), ViCropGradientAttention(layer=LAYER), ViCropPureGradient())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_the_crop_is_the_window_of_the_map_alone_and_in_a_batch(method):
    backbone = tiny_llava(grid=8)
    context = MethodContext(backbone, max_new_tokens=2)
    asked = questions(backbone)
    together = answer_batch(backbone, asked, method.proposer(context, []), max_new_tokens=2)
    for question, answer in zip(asked, together, strict=True):
        (alone,) = answer_batch(
            backbone, [question], method.proposer(context, []), max_new_tokens=2
        )
        assert (answer.ids, answer.boxes) == (alone.ids, alone.boxes)
        (proposal,) = answer.proposals
        geometry = backbone.preprocess(question.images[0]).geometry
        assert answer.boxes == [
            find_window(proposal.roi.scores, geometry, input_side(backbone, geometry, 224))
        ]


def test_a_record_with_two_images_has_a_window_in_each():
    backbone = tiny_llava(grid=8)
    question = Question(TEXTS[0], (tiny_image(0, (240, 160)), tiny_image(1, (200, 300))))
    proposer = ViCrop(layer=LAYER).proposer(MethodContext(backbone), [])
    (answer,) = answer_batch(backbone, [question], proposer, max_new_tokens=2)
    assert [len(proposal.plan.crops) for proposal in answer.proposals] == [1, 1]


def test_the_layer_is_where_the_model_grounds():
    backbone = tiny_llava()
    recipe = LabelRecipe(grounding={1: (0,), 4: (1,)})
    rpn = RPN.from_backbone(backbone, branch=3, n_layers=2, recipe=recipe.to_dict())
    assert chosen_layer(MethodContext(backbone, rpn), None) == 4
    assert chosen_layer(MethodContext(backbone), None) == round(14 / 32 * backbone.n_layers)
    with pytest.raises(ConfigError, match="layer 9 does not exist: the decoder has 0 to 5"):
        chosen_layer(MethodContext(backbone), 9)


def test_windows_are_as_large_as_the_models_input():
    assert input_side(tiny_llava(), PaddedSquare((900, 500), (4, 4), side=56), 224) == 56
    qwen = tiny_qwen2_5_vl()
    assert input_side(qwen, Resized((900, 900), (4, 9), cell=28), 224) == 28 * math.isqrt(36)
    assert input_side(qwen, Resized((900, 900), (20, 20), cell=28), 224) == 224
    assert make_policy("window", {"side": 100}).options() == {"side": 100, "max_crop_tokens": None}
    with pytest.raises(ConfigError, match="side must be at least 1"):
        make_policy("window", {"side": 0})

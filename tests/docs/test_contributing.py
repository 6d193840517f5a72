"""The walkthroughs of CONTRIBUTING run, and what they define does what they say."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
)

from sdrpn_bench import MethodContext
from sdrpn_core import (
    RPN,
    Backbone,
    Question,
    Record,
    Resized,
    RoIMap,
    answer,
    answer_batch,
    load_backbone,
)
from sdrpn_core.generation import generate, prompt_block
from sdrpn_core.plugins import get_plugins
from sdrpn_core.prefill import prefill
from sdrpn_core.proposers import RPNProposer
from sdrpn_core.response_attention import read_own_responses, recipe_heads, recipe_maps
from sdrpn_core.segments import ImageSegment
from tests.docs.fences import run_blocks
from tests.tiny import CHAT_TEMPLATE, tiny_picture, tiny_tokenizer

IMAGE_SIDE, PATCH = 32, 4


class _SquareProcessor(CLIPImageProcessor):
    """CLIP's processor, with the one option of InternVL's that the adapter passes."""

    def __call__(self, image: Any, *, crop_to_patches: bool = False, **options: Any) -> Any:
        assert not crop_to_patches
        return super().__call__(image, do_center_crop=False, **options)


def _tiny_internvl() -> tuple[InternVLForConditionalGeneration, Any]:
    tokenizer = tiny_tokenizer()
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=[IMAGE_SIDE, IMAGE_SIDE],
            patch_size=[PATCH, PATCH],
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0)
    processor = SimpleNamespace(
        tokenizer=tokenizer,
        image_processor=_SquareProcessor(),
        apply_chat_template=lambda messages, **options: tokenizer.apply_chat_template(
            messages, chat_template=CHAT_TEMPLATE, **options
        ),
    )
    return model, processor


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return run_blocks("CONTRIBUTING.md", {"__name__": "contributing"})


@pytest.fixture
def backbone(names: dict[str, Any]) -> Iterator[Backbone]:
    plugins = get_plugins()
    hooks = {name: value for name, value in names.items() if name.startswith("sdrpn_register_")}
    module = ModuleType("contributing")
    vars(module).update(SDRPN_API=names["SDRPN_API"], **hooks)
    plugins.register(module, "contributing")
    model, processor = _tiny_internvl()
    yield load_backbone(model, processor=processor)
    plugins.unregister("contributing")


def test_adapter_serves_its_family(names: dict[str, Any], backbone: Backbone) -> None:
    assert type(backbone) is names["InternVLBackbone"]
    assert backbone.preset.name == "internvl-tiny"
    prompt = backbone.encode([Question("what is it", (tiny_picture(size=(90, 60)),))])[0]
    assert prompt.images[0].grid == (4, 4)
    assert prompt.n_visual_tokens == 16


def test_adapters_geometry(backbone: Backbone) -> None:
    picture = tiny_picture(size=(96, 64))
    inputs = backbone.preprocess(picture)
    for cell in ((0, 0), (1, 2), (3, 3)):
        row, column = cell
        box = inputs.geometry.to_source([(column, row, column + 1, row + 1)])[0]
        changed = picture.copy()
        changed.paste((255, 0, 255), tuple(int(side) for side in box))
        pixels = backbone.preprocess(changed).tensors["pixel_values"]
        moved = (pixels - inputs.tensors["pixel_values"]).abs().sum(dim=(0, 1))
        cells = moved.unflatten(0, (4, -1)).unflatten(2, (4, -1)).sum(dim=(1, 3))
        assert np.unravel_index(int(cells.argmax()), (4, 4)) == cell


def test_two_stages_equal_a_full_recompute(backbone: Backbone) -> None:
    picture, question = tiny_picture(), "what is it"
    rpn = RPN.from_backbone(backbone, policy="peak", policy_options={"radius": 1})
    found = answer(backbone, picture, question, rpn=rpn, max_new_tokens=5)
    assert found.outcome == "ok"
    asked = Question(question, (picture,))
    crop = Question(question, (picture.crop(found.boxes[0]),))
    prompt, crop_prompt = backbone.encode([asked, crop])
    features = crop_prompt.images[0].features
    spliced = prompt.with_crops(((ImageSegment(features, (4, 4)),),))
    expected = generate(backbone, prompt_block(backbone, [spliced]), max_new_tokens=5)
    assert found.ids == expected[0]


def test_recipe_reads_its_heads(backbone: Backbone) -> None:
    recipe = backbone.preset.recipe()
    prompts = backbone.encode([Question("what is it", (tiny_picture(),))])
    response = read_own_responses(backbone, prompts, recipe_heads(recipe), max_new_tokens=4)[0]
    grounding, sink = recipe_maps(recipe, response.maps[0])
    assert grounding.shape == sink.shape == (4, 4)
    assert 0 < grounding.sum() <= 1


def test_policy_crops_at_the_peak(backbone: Backbone) -> None:
    scores = np.zeros((4, 4), np.float32)
    scores[1, 2] = 1
    policy = get_plugins().crop_policies.get("peak").from_options({"radius": 1})
    plan = policy.plan(RoIMap(scores), Resized((400, 400), (4, 4), cell=8))
    assert plan.crops[0].box == (100, 0, 400, 300)


def test_head_learns(backbone: Backbone) -> None:
    rpn = RPN.from_backbone(backbone, head="linear", head_options={"bias": False})
    state = prefill(backbone, [Question("what is it", (tiny_picture(),))], rpn.config.branch)
    chunks, places = state.question_features(), state.places()
    target = torch.zeros(1, 16)
    target[0, 5] = 1
    optimizer = torch.optim.Adam(rpn.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        scores = rpn(chunks, places).scores
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert int(RPNProposer(rpn).maps(state)[0].scores.argmax()) == 5


def test_method_looks_at_the_middle(names: dict[str, Any], backbone: Backbone) -> None:
    record = Record("0", tiny_picture(size=(80, 40)), "what is it", answer="red")
    context = MethodContext(backbone, max_new_tokens=3)
    method = get_plugins().methods.get("centre").from_options({})
    proposer = method.proposer(context, [record])
    question = Question(record.question, (tiny_picture(size=(80, 40)),))
    found = answer_batch(backbone, [question], proposer, max_new_tokens=3)[0]
    assert found.boxes == [(20, 10, 60, 30)]
    assert found.n_visual_tokens == 32

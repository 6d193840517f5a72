"""What the core relies on, for every registered backbone, on a small random model of its family."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sdrpn_core.answering import answer_batch
from sdrpn_core.attention_tap import AttentionTap
from sdrpn_core.backbone import Backbone, Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.feature_tap import FeatureTap
from sdrpn_core.generation import prompt_block
from sdrpn_core.geometry import Geometry
from sdrpn_core.loading import find_adapter
from sdrpn_core.plugins import get_plugins
from sdrpn_core.prefill import prefill
from sdrpn_core.proposers import RPNProposer
from sdrpn_core.rpn import RPN
from tests.tiny import tiny_llava, tiny_picture

#: A tiny model per registered backbone; a new backbone adds its own here.
TINY: dict[str, Callable[[], Backbone]] = {"llava": tiny_llava}

SIZES = ((90, 60), (40, 120), (8, 8), (333, 77))
QUESTIONS = (
    Question("what colour is the square ?", (tiny_picture(0, SIZES[0]),)),
    Question("how many ?", (tiny_picture(1, SIZES[1]), tiny_picture(2, SIZES[3]))),
    Question("which letter is on the left of the small circle ?"),
)


def test_every_registered_backbone_has_a_tiny_model():
    assert set(get_plugins().backbones.names()) == set(TINY)


@pytest.fixture(scope="module", params=sorted(TINY))
def backbone(request):
    made = TINY[request.param]()
    assert type(made) is get_plugins().backbones.get(request.param)
    return made


def test_its_model_types_lead_to_it(backbone):
    assert backbone.model.config.model_type in backbone.model_types
    for model_type in backbone.model_types:
        assert find_adapter(model_type) is type(backbone)


def test_the_model_is_frozen(backbone):
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_a_picture_has_one_token_per_cell_of_its_geometry(backbone, size):
    for preprocess in (backbone.preprocess, backbone.preprocess_crop):
        item = preprocess(tiny_picture(0, size))
        (features,) = backbone.image_features([item])
        h, w = item.geometry.grid
        assert features.shape == (h * w, backbone.hidden_size)
        assert torch.isfinite(features).all()
        assert item.geometry.source_size == size


@pytest.mark.parametrize("size", SIZES)
def test_the_geometry_covers_the_picture(backbone, size):
    geometry = backbone.preprocess(tiny_picture(0, size)).geometry
    h, w = geometry.grid
    assert geometry.to_source([[0, 0, w, h]]).tolist() == [[0, 0, *size]]
    assert geometry.content().any()
    assert Geometry.from_dict(geometry.to_dict()) == geometry


@torch.no_grad()
def test_pictures_encoded_together_equal_those_alone(backbone):
    items = [backbone.preprocess(tiny_picture(seed, size)) for seed, size in enumerate(SIZES)]
    for together, item in zip(backbone.image_features(items), items, strict=True):
        torch.testing.assert_close(
            together, backbone.image_features([item])[0], rtol=1e-4, atol=1e-4
        )


def test_prompts_hold_their_pictures_in_order(backbone):
    for question, prompt in zip(QUESTIONS, backbone.encode(QUESTIONS), strict=True):
        assert len(prompt.images) == len(question.images)
        for picture, geometry in zip(question.images, prompt.geometries, strict=True):
            assert geometry.source_size == picture.size
        assert backbone.embed(prompt).shape == (len(prompt), backbone.hidden_size)
        assert backbone.positions(prompt).shape[-1] == len(prompt)


def test_a_response_follows_its_prompt(backbone):
    response = backbone.tokenize_response("the red circle")
    assert response
    question = Question("what is it ?", QUESTIONS[0].images, response)
    bare, longer = backbone.encode([Question("what is it ?", QUESTIONS[0].images), question])
    assert longer.response_length == len(longer) - len(bare) == len(response)
    assert longer.query_index == bare.query_index == len(bare) - 1
    assert longer.segments[-1].ids[-len(response) :] == response


@torch.no_grad()
def test_logits_equal_the_stock_forward_on_ids_and_pixels(backbone):
    """Segments, embeddings and positions against the model's own splicing."""
    for question, prompt in zip(QUESTIONS, backbone.encode(QUESTIONS), strict=True):
        ids, images = [], iter(prompt.images)
        for token in backbone.tokenize(question.text, len(question.images)):
            copies = len(next(images)) if token == backbone.image_token_id else 1
            ids.extend([token] * copies)
        items = [backbone.preprocess(image) for image in question.images]
        tensors = {
            key: torch.cat([item.tensors[key] for item in items])
            for key in (items[0].tensors if items else ())
        }
        expected = backbone.model(input_ids=torch.tensor([ids]), **tensors).logits
        block = prompt_block(backbone, [prompt])
        found = backbone.model(
            inputs_embeds=block.embeds, position_ids=block.positions, attention_mask=block.mask
        ).logits
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_both_taps_work_on_its_decoder(backbone):
    prompts = backbone.encode(QUESTIONS)
    block = prompt_block(backbone, prompts)
    inputs = {
        "inputs_embeds": block.embeds,
        "attention_mask": block.mask,
        "position_ids": block.positions,
        "use_cache": False,
    }
    hidden = backbone.decoder(**inputs, output_hidden_states=True).hidden_states
    heads = {0: None, backbone.n_layers - 1: (0,)}
    with AttentionTap(backbone.decoder, heads, queries=slice(-1, None)) as tap:
        output = backbone.decoder(**inputs).last_hidden_state
    for layer in heads:
        rows = tap.weights(layer)[:, :, 0]
        torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:2]))
        padding = ~block.mask.bool()[:, None].expand_as(rows)
        assert not rows[padding].any()
    assert torch.equal(output, backbone.decoder(**inputs).last_hidden_state)
    with FeatureTap(backbone.decoder, 2) as features:
        found = features.run(**inputs).hidden
    mask = block.mask.bool()
    torch.testing.assert_close(found[mask], hidden[2][mask], rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{}, {"head_options": {"rope": False}}, {"head": "conv"}])
def test_an_rpn_trains_saves_and_loads(backbone, tmp_path, settings):
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2, final_norm=True, **settings).train()
    state = prefill(backbone, QUESTIONS, 2)
    scores = rpn(state.question_features(), state.places()).scores
    scores.square().sum().backward()
    assert all(p.grad is not None for p in rpn.parameters())
    assert all(p.grad is None for p in backbone.model.parameters())
    rpn.eval().save_pretrained(tmp_path)
    loaded = RPN.from_pretrained(tmp_path, backbone=backbone)
    maps = [RPNProposer(r).maps(state) for r in (rpn, loaded)]
    geometries = [geometry for prompt in state.prompts for geometry in prompt.geometries]
    for one, other, geometry in zip(*maps, geometries, strict=True):
        assert one.grid == geometry.grid
        np.testing.assert_array_equal(one.scores, other.scores)


def test_a_batch_of_two_stage_answers_equals_one_by_one(backbone):
    policy = BboxPolicy(threshold=0.5, max_area_fraction=1, max_crops=9)
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2)
    proposer = RPNProposer(rpn, policy)
    batch = answer_batch(backbone, QUESTIONS, proposer, max_new_tokens=5)
    for question, found in zip(QUESTIONS, batch, strict=True):
        (alone,) = answer_batch(backbone, [question], proposer, max_new_tokens=5)
        assert (found.ids, found.boxes, found.outcome) == (alone.ids, alone.boxes, alone.outcome)

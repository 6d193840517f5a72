"""The RPN computes what the paper says, from copies of stock layers, and trains only itself."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from sdrpn_core.answering.prefill import prefill
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import ConfigError, UnknownNameError
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.losses import LOSS_FUNCTIONS
from sdrpn_core.rpn.model import RPN
from sdrpn_core.runtime.block import image_places
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.feature_tap import FeatureTap
from tests.tiny import tiny_image, tiny_llava

BRANCH, N_LAYERS = 2, 3
N_HEADS, HEAD_DIM = 4, 16
GRID = (4, 4)
QUESTIONS = (
    Question("what color is the square ?", (tiny_image(0),)),
    Question("how many ?", (tiny_image(1), tiny_image(2, (30, 80)))),
    Question("which letter is on the left of the small circle ?"),
)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


def make(backbone, **settings) -> RPN:
    return RPN.from_backbone(backbone, branch=BRANCH, n_layers=N_LAYERS, **settings)


def features_of(backbone, questions, branch=BRANCH):
    """Tapped features of whole prompts, and where their images lie."""
    prompts = backbone.encode(questions)
    block = prompt_block(backbone, prompts)
    with torch.no_grad(), FeatureTap(backbone.decoder, branch) as tap:
        return tap.run(**block.model_inputs()), image_places(prompts, block)


def labels_for(scores: torch.Tensor) -> torch.Tensor:
    labels = torch.zeros_like(scores, dtype=torch.long)
    labels[:, ::3] = 1
    labels[:, 1] = -100
    return labels


def loss_of(rpn: RPN, features, places) -> torch.Tensor:
    scores = rpn(features, places).scores
    total, count = LOSS_FUNCTIONS[rpn.config.loss](scores, labels_for(scores))
    return total / count


def by_hand(backbone, question, *, rope, multi_head, final_norm, distribution) -> torch.Tensor:
    """Scores ``(images, n)`` from stock layers alone: what a new RPN must give."""
    (prompt,) = backbone.encode([question])
    embeds = backbone.embed(prompt)[None]
    hidden = backbone.decoder(inputs_embeds=embeds, output_hidden_states=True).hidden_states[
        BRANCH + N_LAYERS - 1
    ]
    layer = backbone.layers[BRANCH + N_LAYERS - 1]
    if final_norm:
        hidden = backbone.decoder.norm(hidden)
    hidden = layer.input_layernorm(hidden)
    attention = layer.self_attn
    query, key = (
        projection(hidden).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj)
    )
    if rope:
        places = torch.arange(len(prompt))[None]
        query, key = apply_rotary_pos_emb(query, key, *backbone.decoder.rotary_emb(hidden, places))
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    maps = []
    for start, stop in prompt.image_spans:
        products = torch.einsum("bhd,bhnd->bhn", query[:, :, -1], key[:, :, start:stop])[0]
        if not multi_head:
            maps.append(products.sum(0))
            continue
        products = products / HEAD_DIM**0.5
        maps.append((products.softmax(-1) if distribution else products).mean(0))
    return torch.stack(maps)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("loss", ["bce", "mse"])
@torch.no_grad()
def test_a_new_rpn_scores_as_written_out_with_stock_layers(kv_heads, rope, final_norm, loss):
    backbone = tiny_llava(num_key_value_heads=kv_heads)
    rpn = make(backbone, head_options={"rope": rope}, final_norm=final_norm, loss=loss)
    scores = rpn(*features_of(backbone, QUESTIONS))
    expected = [
        by_hand(
            backbone,
            question,
            rope=rope,
            multi_head=True,
            final_norm=final_norm,
            distribution=loss == "mse",
        )
        for question in QUESTIONS[:2]
    ]
    assert scores.is_distribution == (loss == "mse")
    assert scores.scores.dtype == torch.float32
    torch.testing.assert_close(scores.scores, torch.cat(expected), **CLOSE)


@torch.no_grad()
def test_single_head_scores_are_plain_products(backbone):
    rpn = make(backbone, head_options={"rope": False, "multi_head": False})
    scores = rpn(*features_of(backbone, QUESTIONS[:1])).scores
    expected = by_hand(
        backbone,
        QUESTIONS[0],
        rope=False,
        multi_head=False,
        final_norm=False,
        distribution=False,
    )
    torch.testing.assert_close(scores, expected, **CLOSE)
    many = make(backbone, head_options={"rope": False})(
        *features_of(backbone, QUESTIONS[:1])
    ).scores
    # The mean over heads, unscaled: 16 times larger here, as the published code has it.
    torch.testing.assert_close(scores, many * N_HEADS * HEAD_DIM**0.5, **CLOSE)


@torch.no_grad()
def test_a_single_head_needs_as_many_key_heads_as_query_heads():
    backbone = tiny_llava(num_key_value_heads=2)
    with pytest.raises(ConfigError, match="2 for 4; use multi_head"):
        make(backbone, head_options={"multi_head": False})(*features_of(backbone, QUESTIONS))


@torch.no_grad()
def test_hidden_states_are_compared_without_a_layer_of_the_heads_own(backbone):
    rpn = make(backbone, head_options={"source": "hidden_states"})
    assert len(rpn.layers) == N_LAYERS
    assert list(rpn.head.parameters()) == []
    scores = rpn(*features_of(backbone, QUESTIONS[:1])).scores
    (prompt,) = backbone.encode(QUESTIONS[:1])
    hidden = backbone.decoder(
        inputs_embeds=backbone.embed(prompt)[None], output_hidden_states=True
    ).hidden_states[BRANCH + N_LAYERS][0]
    ((start, stop),) = prompt.image_spans
    expected = hidden[start:stop] @ hidden[-1] / 64**0.5
    torch.testing.assert_close(scores[0], expected, **CLOSE)


@pytest.mark.parametrize(
    ("settings", "n_trunk"),
    [
        ({}, 2),
        ({"final_norm": True}, 2),
        ({"loss": "mse"}, 2),
        ({"loss": "focal", "head_options": {"rope": False, "multi_head": False}}, 2),
        ({"head_options": {"source": "hidden_states"}}, 3),
        ({"head": "conv"}, 3),
    ],
)
def test_every_parameter_is_used_and_trained(backbone, settings, n_trunk):
    rpn = make(backbone, **settings)
    if settings.get("head") == "conv":
        # It starts at a score of nearly zero; away from there no gradient is nearly zero.
        nn.init.normal_(rpn.head.score.weight)
    assert len(rpn.layers) == n_trunk
    assert all(parameter.requires_grad for parameter in rpn.parameters())
    loss_of(rpn.train(), *features_of(backbone, QUESTIONS)).backward()
    for name, parameter in rpn.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_query_key_head_holds_a_norm_and_two_projections(backbone):
    rpn = make(backbone, final_norm=True)
    names = {name for name, _ in rpn.named_parameters() if not name.startswith("layers.")}
    assert names == {
        "norm.weight",
        "head.norm.weight",
        "head.attention.q_proj.weight",
        "head.attention.k_proj.weight",
    }
    for name in ("q_proj", "k_proj"):
        copied = getattr(rpn.head.attention, name).weight
        original = getattr(backbone.layers[BRANCH + N_LAYERS - 1].self_attn, name).weight
        assert torch.equal(copied, original)
        assert copied.data_ptr() != original.data_ptr()


def test_copies_share_the_config_and_nothing_else(backbone):
    rpn = make(backbone, final_norm=True)
    assert all(layer.self_attn.config is backbone.text_config for layer in rpn.layers)
    own = {parameter.data_ptr() for parameter in rpn.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in backbone.model.parameters())
    assert backbone.text_config._attn_implementation == "sdpa"


def test_training_leaves_the_backbone_as_it_was(backbone):
    before = copy.deepcopy(backbone.model.state_dict())
    rpn = make(backbone).train()
    features, places = features_of(backbone, QUESTIONS)
    optimizer = torch.optim.AdamW(rpn.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of(rpn, features, places)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(p.requires_grad or p.grad is not None for p in backbone.model.parameters())
    assert not backbone.model.training


@pytest.mark.parametrize("head", ["qk", "conv"])
@torch.no_grad()
def test_prefix_and_question_in_two_pieces_equal_one(backbone, head):
    torch.manual_seed(0)
    rpn = make(backbone, head=head, final_norm=True)
    if head == "conv":
        nn.init.normal_(rpn.head.score.weight)
    expected = rpn(*features_of(backbone, QUESTIONS)).scores
    state = prefill(backbone, QUESTIONS, rpn)
    features = state.question_features(BRANCH)
    found = rpn.score_after(state.readings(rpn), features, state.places()).scores
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.no_grad()
def test_a_batch_equals_one_by_one(backbone):
    rpn = make(backbone)
    batch = rpn(*features_of(backbone, QUESTIONS)).scores
    alone = [rpn(*features_of(backbone, [question])).scores for question in QUESTIONS[:2]]
    torch.testing.assert_close(batch, torch.cat(alone), **CLOSE)


@torch.no_grad()
def test_maps_are_row_major_grids(backbone):
    scores = make(backbone)(*features_of(backbone, QUESTIONS))
    maps = scores.maps()
    assert [m.grid for m in maps] == [GRID] * 3
    assert {m.kind for m in maps} == {"logit"}
    assert maps[1].scores[2, 3] == scores.scores[1, 2 * 4 + 3].item()
    assert {
        m.kind for m in make(backbone, loss="mse")(*features_of(backbone, QUESTIONS)).maps()
    } == {"distribution"}


def test_gradient_checkpointing_changes_no_gradient(backbone):
    features, places = features_of(backbone, QUESTIONS)
    gradients = []
    for checkpointing in (False, True):
        rpn = make(backbone).train()
        rpn.gradient_checkpointing = checkpointing
        loss_of(rpn, features, places).backward()
        gradients.append({name: p.grad for name, p in rpn.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_gradient_checkpointing_refuses_features_in_several_pieces(backbone):
    # The second pass through a layer would append to the cache once more.
    rpn = make(backbone).train()
    rpn.gradient_checkpointing = True
    with pytest.raises(ConfigError, match="in one piece"):
        prefill(backbone, QUESTIONS, rpn)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_layers": 5}, ConfigError, "up to 6, but the backbone has 6"),
        ({"n_layers": 0}, ConfigError, "n_layers must be 1 or more"),
        ({"branch": -1}, ConfigError, "branch must be 0 or more"),
        ({"branch": "2"}, ConfigError, "branch must be a whole number, not '2'"),
        ({"loss": "l1"}, ConfigError, "unknown loss 'l1'; known: bce, focal, mse"),
        ({"head": "conf"}, UnknownNameError, "did you mean 'conv'"),
        ({"head_options": {"rop": 1}}, ConfigError, "no option rop; its options: multi_head"),
        ({"head_options": {"source": "x"}}, ConfigError, "unknown source 'x'"),
        ({"head": "conv", "head_options": {"depth": 0}}, ConfigError, "1 or more"),
        ({"depth": 3}, ConfigError, "RPN settings: unknown field 'depth'"),
    ],
)
def test_settings_that_cannot_work_are_refused(backbone, settings, error, message):
    with pytest.raises(error, match=message):
        RPN.from_backbone(backbone, **{"branch": BRANCH, "n_layers": N_LAYERS, **settings})


def test_without_a_preset_branch_and_layers_must_be_given(backbone):
    with pytest.raises(ConfigError, match="no preset matches"):
        RPN.from_backbone(backbone, branch=2)


def test_branch_zero_reads_the_embeddings(backbone):
    rpn = RPN.from_backbone(backbone, branch=0, n_layers=2)
    features, places = features_of(backbone, QUESTIONS, branch=0)
    block = prompt_block(backbone, backbone.encode(QUESTIONS))
    assert torch.equal(features.hidden, block.embeds)
    with torch.no_grad():
        scores = rpn(features, places).scores
        moved = rpn(replace(features, hidden=features.hidden.roll(1, dims=-1)), places).scores
    assert torch.isfinite(scores).all()
    assert not torch.allclose(scores, moved)


def test_overrides_replace_fields_of_a_given_config(backbone):
    config = RPNConfig(branch=1, n_layers=2, final_norm=True)
    rpn = RPN.from_backbone(backbone, config, loss="focal")
    assert (rpn.config.branch, rpn.config.final_norm, rpn.config.loss) == (1, True, "focal")
    assert rpn.config.head_options == {"rope": True, "multi_head": True, "source": "projections"}
    assert rpn.config.backbone["hidden_size"] == 64


def test_a_model_of_the_wrong_dtype_gives_a_head_of_its_dtype():
    backbone = tiny_llava()
    backbone.model.to(torch.bfloat16)
    for head in ("qk", "conv"):
        rpn = make(backbone, head=head)
        assert {p.dtype for p in rpn.parameters()} == {torch.bfloat16}
        with torch.no_grad():
            scores = rpn(*features_of(backbone, QUESTIONS)).scores
        assert scores.dtype == torch.float32

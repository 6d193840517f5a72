"""Copied layers of mixed kinds: each runs with the mask and rotary embeddings of its own kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, Qwen2Config

from sdrpn_core.answering.prefill import prefill
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import ConfigError
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.model import RPN
from sdrpn_core.rpn.prediction import prompt_features
from sdrpn_core.training.batches import StoredLabelBatcher
from sdrpn_core.training.cached_batches import CachedFeatureBatcher, to_cached
from sdrpn_core.training.samples import TrainingSample
from tests.tiny import tiny_image, tiny_llava

SLIDING, FULL = "sliding_attention", "full_attention"
KINDS = [SLIDING, FULL, SLIDING, FULL, SLIDING, SLIDING]
#: Shorter than the prompts, so that the two kinds of mask differ.
WINDOW = 9
QUESTIONS = (
    Question("what color is the square ?", (tiny_image(0),)),
    Question("which letter is on the left of the small circle ?", (tiny_image(1, (30, 80)),)),
)
BRANCH, N_LAYERS = 2, 3


def mixed(decoder=Gemma3TextConfig, kinds=KINDS):
    """Gemma's kinds differ in the mask and in the base of the rotary embeddings."""
    options = {"head_dim": 16, "num_key_value_heads": 2}
    if decoder is Qwen2Config:
        options = {"use_sliding_window": True, "num_key_value_heads": 2}
    return tiny_llava(decoder=decoder, layer_types=kinds, sliding_window=WINDOW, **options)


def states_of(backbone, questions):
    """The decoder's own states in front of each layer, prompt by prompt."""
    for prompt in backbone.encode(questions):
        output = backbone.decoder(
            inputs_embeds=backbone.embed(prompt)[None], output_hidden_states=True
        )
        yield output.hidden_states


@pytest.mark.parametrize("decoder", [Gemma3TextConfig, Qwen2Config])
@torch.no_grad()
def test_a_new_trunk_computes_what_the_decoder_does(decoder):
    backbone = mixed(decoder)
    rpn = RPN.from_backbone(backbone, RPNConfig(BRANCH, N_LAYERS, head="conv"))
    assert len(rpn.layers) == N_LAYERS
    features, _ = prompt_features(backbone, backbone.encode(QUESTIONS), BRANCH)
    found = rpn.trunk(features).hidden
    for row, states in enumerate(states_of(backbone, QUESTIONS)):
        expected = states[BRANCH + N_LAYERS][0]
        torch.testing.assert_close(found[row, -len(expected) :], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_head_has_the_rotary_embeddings_of_the_layer_that_it_is_made_of():
    backbone = mixed()
    rpn = RPN.from_backbone(
        backbone, RPNConfig(BRANCH, 2)
    )  # the head is layer 3, of the other kind
    features, _ = prompt_features(backbone, backbone.encode(QUESTIONS[:1]), BRANCH)
    positions = torch.arange(features.hidden.shape[1])[None]
    cos, sin = rpn.trunk(features).rotary
    expected = backbone.decoder.rotary_emb(features.hidden, positions, FULL)
    torch.testing.assert_close((cos, sin), expected, rtol=0, atol=0)
    other = backbone.decoder.rotary_emb(features.hidden, positions, SLIDING)
    assert (cos - other[0]).abs().max() > 0.1


@torch.no_grad()
def test_prefix_and_question_apart_equal_one_pass():
    """For a question at a time: what batches do to windows is tested with the answers."""
    backbone = mixed()
    rpn = RPN.from_backbone(backbone, RPNConfig(BRANCH, N_LAYERS))
    for question in QUESTIONS:
        features, places = prompt_features(backbone, backbone.encode([question]), BRANCH)
        expected = rpn(features, places).scores
        state = prefill(backbone, [question], rpn)
        rest = state.question_features(BRANCH)
        found = rpn.score_after(state.readings(rpn), rest, state.places()).scores
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_cached_features_are_called_alike():
    backbone = mixed()
    rpn = RPN.from_backbone(backbone, RPNConfig(BRANCH, N_LAYERS))
    samples = [
        TrainingSample(
            str(index),
            question.text,
            backbone.preprocess(question.images[0]),
            np.zeros((4, 4), np.int64),
        )
        for index, question in enumerate(QUESTIONS)
    ]
    batch = StoredLabelBatcher(backbone, BRANCH)(samples)
    cached = list(to_cached(batch, samples, torch.float32))
    again = CachedFeatureBatcher(backbone, BRANCH)(cached)
    torch.testing.assert_close(
        rpn(again.features, again.places).scores,
        rpn(batch.features, batch.places).scores,
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_kind_that_does_not_occur_before_the_branch_is_refused():
    backbone = mixed(kinds=[SLIDING, SLIDING, SLIDING, FULL, SLIDING, SLIDING])
    RPN.from_backbone(backbone, RPNConfig(3, N_LAYERS))
    with pytest.raises(ConfigError, match=r"branch off at layer 2: .* kind .* at layer 3"):
        RPN.from_backbone(backbone, RPNConfig(BRANCH, N_LAYERS))


def test_a_gate_whose_layers_go_on_to_such_a_kind_is_refused():
    """Though the RPN alone fits there."""
    backbone = mixed(kinds=[SLIDING, SLIDING, SLIDING, FULL, SLIDING, SLIDING])
    rpn = RPN.from_backbone(backbone, RPNConfig(1, 2))
    rpn.add_gate(backbone, GateConfig(options={"n_layers": 2}))
    with pytest.raises(ConfigError, match=r"3 layers cannot branch off at layer 1: .* at layer 3"):
        rpn.add_gate(backbone, GateConfig(options={"n_layers": 3}))

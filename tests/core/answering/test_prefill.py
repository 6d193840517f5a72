"""The prefix runs once; what is kept of it equals a pass over the whole prompt."""

from __future__ import annotations

import pytest
import torch

from sdrpn_core.answering.prefill import prefill
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import InputError
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.runtime.kv_cache import CACHE_NAME
from tests.readers import KeepsHidden
from tests.tiny import tiny_image, tiny_llava

BRANCH, N_LAYERS = 3, 6
QUESTIONS = (
    Question("what color is the square ?", (tiny_image(0),)),
    Question("how many ?", (tiny_image(1), tiny_image(2, (30, 80)))),
    Question("which letter is on the left of the small circle ?"),
)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(num_key_value_heads=2)


@pytest.fixture
def reader():
    return KeepsHidden(BRANCH)


@pytest.fixture
def state(backbone, reader):
    return prefill(backbone, QUESTIONS, reader)


def copies(cache):
    return [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]


@torch.no_grad()
def test_the_cache_holds_the_keys_and_values_of_the_prefixes(backbone, state):
    for row, prompt in enumerate(state.prompts):
        stop = prompt.prefix_length
        output = backbone.decoder(inputs_embeds=backbone.embed(prompt)[None], use_cache=True)
        start = int(state.prefix.starts[row])
        assert state.prefix.length - start == stop
        for found, expected in zip(state.cache().layers, output[CACHE_NAME].layers, strict=True):
            for kind in ("keys", "values"):
                torch.testing.assert_close(
                    getattr(found, kind)[row, :, start:],
                    getattr(expected, kind)[0, :, :stop],
                    **CLOSE,
                )


@torch.no_grad()
def test_features_of_prefix_and_question_are_the_branch_layers_input(backbone, state, reader):
    question = state.question_features(BRANCH).hidden
    mask = state.rest().mask.bool()
    for row, (prompt, kept) in enumerate(zip(state.prompts, state.readings(reader), strict=True)):
        expected = backbone.decoder(
            inputs_embeds=backbone.embed(prompt)[None], output_hidden_states=True
        ).hidden_states[BRANCH][0]
        found = torch.cat([kept, question[row][mask[row]]])
        torch.testing.assert_close(found, expected, **CLOSE)


@torch.no_grad()
def test_what_runs_on_a_cache_leaves_the_prefixes_as_they_were(backbone, state):
    before = copies(state.cache())
    state.question_features(BRANCH)
    rest = state.rest()
    cache = state.cache()
    backbone.decoder(**rest.model_inputs(cache, prefix=state.prefix))
    assert cache.layers[0].get_seq_length() > state.prefix.length
    assert len(before) == N_LAYERS
    for (keys, values), (old_keys, old_values) in zip(copies(state.cache()), before, strict=True):
        assert torch.equal(keys, old_keys)
        assert torch.equal(values, old_values)


def test_places_point_at_the_visual_tokens_and_the_last_token(backbone, state):
    places = state.places()
    assert [place.row for place in places] == [0, 1, 1]
    embeds = torch.cat([state.prefix.embeds, state.rest().embeds], dim=1)
    images = [image for prompt in state.prompts for image in prompt.images]
    for place, image in zip(places, images, strict=True):
        found = embeds[place.row, place.start : place.start + place.n_tokens]
        assert torch.equal(found, image.features)
        last = backbone.embed(state.prompts[place.row])[-1]
        assert torch.equal(embeds[place.row, place.query], last)


def test_only_its_own_reader_gets_a_reading(backbone, state):
    with pytest.raises(RuntimeError, match="not read by this reader"):
        state.readings(KeepsHidden(BRANCH))
    with pytest.raises(RuntimeError, match="not read by this reader"):
        prefill(backbone, QUESTIONS).readings(KeepsHidden(BRANCH))


def test_prefix_and_rest_make_the_prompt(backbone, state):
    whole = prompt_block(backbone, state.prompts)
    rest = state.rest()
    for row, prompt in enumerate(state.prompts):
        parts = [block.embeds[row][block.mask[row].bool()] for block in (state.prefix, rest)]
        assert torch.equal(torch.cat(parts), whole.embeds[row][whole.mask[row].bool()])
        places = [block.positions[row][block.mask[row].bool()] for block in (state.prefix, rest)]
        assert torch.cat(places).tolist() == list(range(len(prompt)))


def test_a_prompt_beyond_the_context_is_refused():
    small = tiny_llava(max_position_embeddings=40)
    with pytest.raises(InputError, match="exceeds the context of 40"):
        prefill(small, QUESTIONS[:1])

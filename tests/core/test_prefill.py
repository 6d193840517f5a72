"""The prefix runs once; what is kept of it equals a pass over the whole prompt."""

from __future__ import annotations

import pytest
import torch

from sdrpn_core.backbone import Question
from sdrpn_core.errors import InputError
from sdrpn_core.generation import prompt_block
from sdrpn_core.prefill import prefill
from tests.tiny import tiny_llava, tiny_picture

BRANCH, N_LAYERS = 3, 6
QUESTIONS = (
    Question("what colour is the square ?", (tiny_picture(0),)),
    Question("how many ?", (tiny_picture(1), tiny_picture(2, (30, 80)))),
    Question("which letter is on the left of the small circle ?"),
)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(num_key_value_heads=2)


@pytest.fixture
def state(backbone):
    return prefill(backbone, QUESTIONS, BRANCH)


def copies(cache):
    return [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]


@torch.no_grad()
def test_the_cache_holds_the_keys_and_values_of_the_prefixes(backbone, state):
    for row, prompt in enumerate(state.prompts):
        stop = prompt.prefix_length
        output = backbone.decoder(inputs_embeds=backbone.embed(prompt)[None], use_cache=True)
        start = int(state.prefix.starts[row])
        assert state.prefix.length - start == stop
        for found, expected in zip(state.cache.layers, output.past_key_values.layers, strict=True):
            for kind in ("keys", "values"):
                torch.testing.assert_close(
                    getattr(found, kind)[row, :, start:],
                    getattr(expected, kind)[0, :, :stop],
                    **CLOSE,
                )


@torch.no_grad()
def test_features_of_prefix_and_question_are_the_branch_layers_input(backbone, state):
    chunks = state.question_features()
    hidden = torch.cat([chunk.hidden for chunk in chunks], dim=1)
    mask = torch.cat([state.prefix.mask, state.rest().mask], dim=1).bool()
    for row, prompt in enumerate(state.prompts):
        expected = backbone.decoder(
            inputs_embeds=backbone.embed(prompt)[None], output_hidden_states=True
        ).hidden_states[BRANCH][0]
        torch.testing.assert_close(hidden[row][mask[row]], expected, **CLOSE)


@torch.no_grad()
def test_asking_for_features_leaves_the_cache_as_it_was(state):
    before = copies(state.cache)
    for _ in range(2):
        state.question_features()
        assert [layer.get_seq_length() for layer in state.cache.layers] == (
            [state.prefix.length] * N_LAYERS
        )
        for (keys, values), (old_keys, old_values) in zip(copies(state.cache), before, strict=True):
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


@torch.no_grad()
def test_trimming_drops_all_that_follows_the_prefix(backbone, state):
    before = copies(state.cache)
    rest = state.rest()
    backbone.decoder(
        inputs_embeds=rest.embeds,
        attention_mask=torch.cat([state.prefix.mask, rest.mask], dim=1),
        position_ids=rest.positions,
        past_key_values=state.cache,
    )
    assert state.cache.layers[0].get_seq_length() > state.prefix.length
    state.trim()
    state.trim()  # nothing left to drop
    for (keys, values), (old_keys, old_values) in zip(copies(state.cache), before, strict=True):
        assert torch.equal(keys, old_keys)
        assert torch.equal(values, old_values)


def test_without_a_branch_there_are_no_features(backbone):
    state = prefill(backbone, QUESTIONS)
    assert state.features is None
    with pytest.raises(RuntimeError, match="without a branch layer"):
        state.question_features()


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

"""Response-to-image attention, own and given, alone and in batches, against stock eager."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MistralConfig

from sdrpn_core.answering.prefill import prefill
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.response_attention import (
    read_given_responses,
    read_own_responses,
    recipe_heads,
    recipe_maps,
)
from tests.tiny import prefer_padding, tiny_image, tiny_llava

HEADS = {1: (0, 2), 4: None}
GRID = (4, 4)
ONE = Question("what color is the square ?", (tiny_image(0),))
TWO = Question("how many ?", (tiny_image(1), tiny_image(2, (30, 80))))
NONE = Question("which letter is on the left of the small circle ?")
N_NEW = 6
#: float32 through several layers, in another order of summation.
CLOSE = {"rtol": 1e-3, "atol": 1e-5}


@pytest.fixture
def backbone():
    return tiny_llava()


def own(backbone, questions, n_new=N_NEW):
    prompts = backbone.encode(questions)
    return read_own_responses(backbone, prompts, HEADS, max_new_tokens=n_new)


def given(backbone, questions, responses):
    questions = [
        replace(q, response_ids=tuple(r)) for q, r in zip(questions, responses, strict=True)
    ]
    return read_given_responses(backbone, backbone.encode(questions), HEADS)


def end_with(backbone, token):
    backbone.model.generation_config.eos_token_id = token


def assert_maps_equal(found, expected):
    assert len(found.maps) == len(expected.maps)
    for maps, others in zip(found.maps, expected.maps, strict=True):
        assert maps.keys() == others.keys()
        for layer in maps:
            assert maps[layer].dtype == np.float32
            np.testing.assert_allclose(maps[layer], others[layer], **CLOSE)


@torch.no_grad()
def test_own_rows_are_those_of_stock_eager_generation(backbone):
    end_with(backbone, None)
    (found,) = own(backbone, [TWO])
    eager = tiny_llava(attn_implementation="eager")
    (prompt,) = eager.encode([TWO])
    block = prompt_block(eager, [prompt])
    eager.model.generation_config.eos_token_id = None
    output = eager.model.generate(
        inputs_embeds=block.embeds,
        attention_mask=block.mask,
        max_new_tokens=N_NEW,
        output_attentions=True,
        return_dict_in_generate=True,
    )
    assert found.response_ids == tuple(output.sequences[0].tolist())
    assert found.n_rows == N_NEW - 1
    for image, (start, stop) in enumerate(prompt.image_spans):
        for layer, heads in HEADS.items():
            rows = [step[layer][0, :, 0, start:stop] for step in output.attentions[1:]]
            expected = torch.stack(rows).mean(0)[list(heads or range(4))].unflatten(1, GRID)
            np.testing.assert_allclose(found.maps[image][layer], expected, **CLOSE)


def test_a_given_response_has_the_rows_of_the_same_own_response(backbone):
    end_with(backbone, None)
    (mine,) = own(backbone, [ONE])
    assert len(mine.response_ids) == N_NEW
    # The last token before the length limit is never fed back.
    (same,) = given(backbone, [ONE], [mine.response_ids[:-1]])
    assert same.n_rows == mine.n_rows == N_NEW - 1
    assert same.response_ids == mine.response_ids[:-1]
    assert_maps_equal(same, mine)


def test_the_end_token_is_no_part_of_the_response(backbone):
    end_with(backbone, None)
    (free,) = own(backbone, [ONE])
    end = free.response_ids[3]
    length = free.response_ids.index(end)
    assert length > 0
    end_with(backbone, end)
    (mine,) = own(backbone, [ONE])
    assert mine.response_ids == free.response_ids[:length]
    assert mine.n_rows == length  # every token of the response is fed back
    assert_maps_equal(mine, given(backbone, [ONE], [mine.response_ids])[0])


def test_several_end_tokens(backbone):
    end_with(backbone, None)
    (free,) = own(backbone, [ONE])
    end_with(backbone, [free.response_ids[4], free.response_ids[2]])
    (mine,) = own(backbone, [ONE])
    first = min(map(free.response_ids.index, (free.response_ids[4], free.response_ids[2])))
    assert mine.response_ids == free.response_ids[:first]


def test_an_empty_response_has_no_rows(backbone):
    end_with(backbone, None)
    (free,) = own(backbone, [ONE])
    end_with(backbone, free.response_ids[0])
    for (found,) in (own(backbone, [ONE]), given(backbone, [ONE], [()])):
        assert (found.response_ids, found.n_rows, found.maps) == ((), 0, ())


def test_one_new_token_has_no_rows(backbone):
    end_with(backbone, None)
    (found,) = own(backbone, [ONE], n_new=1)
    assert (len(found.response_ids), found.n_rows, found.maps) == (1, 0, ())


def test_own_responses_in_a_batch_equal_those_alone(backbone):
    questions = [ONE, NONE, TWO]
    end_with(backbone, None)
    free = own(backbone, questions)
    # One prompt ends early, while the others go on.
    end_with(backbone, free[0].response_ids[2])
    batch = own(backbone, questions)
    assert len({found.n_rows for found in batch}) > 1
    for question, found in zip(questions, batch, strict=True):
        (alone,) = own(backbone, [question])
        assert found.response_ids == alone.response_ids
        assert found.n_rows == alone.n_rows
        assert_maps_equal(found, alone)


@pytest.mark.parametrize(
    "options", [{"no_repeat_ngram_size": 1}, {"encoder_repetition_penalty": 0.2}], ids=str
)
def test_padding_is_no_part_of_what_options_read_of_a_prompt(backbone, options):
    """Were it, the token that padding is written as could not be repeated, and so not be made."""
    end_with(backbone, None)
    questions = [ONE, NONE, TWO]
    prefer_padding(backbone, own(backbone, questions)[0].response_ids[0])
    backbone.model.generation_config.update(**options)
    batch = own(backbone, questions)
    assert any(0 in found.response_ids for found in batch)
    for question, found in zip(questions, batch, strict=True):
        (alone,) = own(backbone, [question])
        assert found.response_ids == alone.response_ids
        assert_maps_equal(found, alone)


def test_given_responses_in_a_batch_equal_those_alone(backbone):
    questions, responses = [TWO, ONE, NONE, ONE], [(7, 30), (8, 9, 50, 51, 52), (11,), ()]
    batch = given(backbone, questions, responses)
    assert [found.n_rows for found in batch] == [2, 5, 1, 0]
    assert [len(found.maps) for found in batch] == [2, 1, 0, 0]
    for question, response, found in zip(questions, responses, batch, strict=True):
        (alone,) = given(backbone, [question], [response])
        assert found.response_ids == alone.response_ids == response
        assert_maps_equal(found, alone)


@torch.no_grad()
def test_given_rows_are_the_response_tokens_own_rows_of_stock_eager(backbone):
    response = (7, 30, 51)
    (found,) = given(backbone, [TWO], [response])
    eager = tiny_llava(attn_implementation="eager")
    (prompt,) = eager.encode([replace(TWO, response_ids=response)])
    block = prompt_block(eager, [prompt])
    attentions = eager.decoder(inputs_embeds=block.embeds, output_attentions=True).attentions
    start, stop = prompt.image_spans[1]
    expected = attentions[4][0, :, -3:, start:stop].mean(1).unflatten(1, GRID)
    np.testing.assert_allclose(found.maps[1][4], expected, **CLOSE)


def test_a_given_response_runs_no_layer_beyond_the_deepest_tapped_one(backbone):
    calls = []
    for index, layer in enumerate(backbone.layers):
        layer.register_forward_hook(lambda *_, i=index: calls.append(i))
    given(backbone, [ONE], [(7, 30)])
    assert calls == [0, 1, 2, 3, 4]
    calls.clear()
    prompts = backbone.encode([replace(ONE, response_ids=(7,))])
    read_given_responses(backbone, prompts, {5: (0,)})
    assert calls == [0, 1, 2, 3, 4, 5]


def test_a_cached_prefix_changes_nothing(backbone):
    questions = [ONE, NONE, TWO]
    expected = own(backbone, questions)
    state = prefill(backbone, questions)
    found = read_own_responses(
        backbone,
        state.prompts,
        HEADS,
        max_new_tokens=N_NEW,
        prefix=state.prefix,
        cache=state.cache(),
    )
    for one, other in zip(found, expected, strict=True):
        assert one.response_ids == other.response_ids
        assert_maps_equal(one, other)


def test_a_response_beyond_the_context_is_refused():
    backbone = tiny_llava(max_position_embeddings=64)
    with pytest.raises(InputError, match="context of 64"):
        given(backbone, [ONE], [(7,) * 30])
    with pytest.raises(InputError, match="context of 64"):
        own(backbone, [ONE], n_new=30)


def test_heads_of_a_recipe():
    recipe = LabelRecipe(grounding={4: (3, 1), 2: (0,)}, sink={4: (2,), 1: "all"})
    assert recipe_heads(recipe) == {1: None, 2: [0], 4: [1, 2, 3]}
    assert recipe_heads(LabelRecipe(grounding={1: (3,)}, sink={1: "all"})) == {1: None}


def test_maps_of_a_recipe_are_means_over_its_heads():
    rng = np.random.default_rng(0)
    maps = {
        1: rng.random((4, 2, 3), dtype=np.float32),  # all heads
        2: rng.random((1, 2, 3), dtype=np.float32),  # head 0
        4: rng.random((3, 2, 3), dtype=np.float32),  # heads 1, 2, 3
    }
    recipe = LabelRecipe(grounding={4: (3, 1), 2: (0,), 1: (2,)}, sink={4: (2,), 1: "all"})
    grounding, sink = recipe_maps(recipe, maps)
    np.testing.assert_allclose(
        grounding, np.mean([maps[4][2], maps[4][0], maps[2][0], maps[1][2]], axis=0), rtol=1e-6
    )
    np.testing.assert_allclose(sink, np.mean([maps[4][1], *maps[1]], axis=0), rtol=1e-6)
    assert grounding.dtype == sink.dtype == np.float32


def test_a_recipe_without_sinks_has_an_empty_sink_map():
    maps = {2: np.ones((1, 2, 3), np.float32)}
    _, sink = recipe_maps(LabelRecipe(grounding={2: (0,)}), maps)
    assert sink.shape == (2, 3)
    assert not sink.any()


def test_maps_of_other_heads_are_refused():
    recipe = LabelRecipe(grounding={1: (0, 2)})
    with pytest.raises(ConfigError, match=r"layer 1 hold 4 heads, the recipe reads \[0, 2\]"):
        recipe_maps(recipe, {1: np.ones((4, 2, 2), np.float32)})
    with pytest.raises(ConfigError, match="layer 1 hold 0 heads"):
        recipe_maps(recipe, {})


def test_only_the_first_rows_count_where_the_recipe_says_so(backbone):
    prompts = backbone.encode([Question("what color is the dot", (tiny_image(),))])
    (whole,) = read_own_responses(backbone, prompts, HEADS, max_new_tokens=4)
    (first,) = read_own_responses(backbone, prompts, HEADS, max_new_tokens=4, max_rows=1)
    assert first.response_ids == whole.response_ids
    assert (first.n_rows, whole.n_rows) == (1, len(whole.response_ids[:3]))
    given = [
        replace(Question("what color is the dot", (tiny_image(),)), response_ids=ids)
        for ids in (whole.response_ids, whole.response_ids[:1])
    ]
    answered = backbone.encode(given)
    limited, short = read_given_responses(backbone, answered, HEADS, max_rows=1)
    for layer in HEADS:
        np.testing.assert_allclose(limited.maps[0][layer], first.maps[0][layer], **CLOSE)
        np.testing.assert_allclose(short.maps[0][layer], first.maps[0][layer], **CLOSE)


def test_own_and_given_responses_agree_within_windows():
    """What has left a window has no attention, and keeps its column."""
    backbone = tiny_llava(decoder=MistralConfig, sliding_window=12, num_key_value_heads=2)
    prompts = backbone.encode([Question("how many ?", (tiny_image(seed),)) for seed in range(3)])
    own = read_own_responses(backbone, prompts, {0: None, 3: None}, max_new_tokens=6)
    longer = [
        prompt.with_response(one.response_ids[:5]) for prompt, one in zip(prompts, own, strict=True)
    ]
    given = read_given_responses(backbone, longer, {0: None, 3: None})
    for one, other in zip(own, given, strict=True):
        assert one.n_rows == other.n_rows == 5
        for layer, rows in one.maps[0].items():
            np.testing.assert_allclose(rows, other.maps[0][layer], atol=1e-5)
            assert rows.sum() < 0.9 * len(rows)

"""LLaVA: response-to-image and prompt-to-image attention, against the published numbers.

The published rows are cast to half precision before they are averaged; ours stay in single
precision. Where the golden data has the same averages in single precision, they agree to rounding.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from sdrpn_core import AttentionTap, LabelRecipe
from sdrpn_core.answering.attention_proposer import AttentionProposer
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.response_attention import (
    read_given_responses,
    read_own_responses,
    recipe_heads,
    recipe_maps,
)
from tests.golden.llava import question_of
from tests.golden.runs import until_end

HALF = {"atol": 3e-5, "rtol": 5e-3}
SINGLE = {"atol": 1e-6, "rtol": 0}
#: README: the layers and heads of the recipe that the golden run used.
RECIPE = LabelRecipe(grounding={4: (3, 1, 2)}, sink={1: "all"})

attention = pytest.mark.golden_files("llava/attention.npz")


def runs_of(data):
    """``(name, arrays)`` of every run; the names say how it ended: ``a0.n6``, ``a0.eos``."""
    names = dict.fromkeys(key.rsplit(".ids", 1)[0] for key in data if key.endswith(".ids"))
    for name in names:
        yield name, {k[len(name) + 1 :]: v for k, v in data.items() if k.startswith(f"{name}.")}


def layers_of(arrays):
    return sorted({int(m[1]) for key in arrays if (m := re.match(r"layer(\d+)\.", key))})


def check(ours, arrays, name, message):
    ours = ours.reshape(len(ours), -1)
    np.testing.assert_allclose(ours, arrays[name].astype(np.float32), **HALF, err_msg=message)
    if f"{name}_f32" in arrays:
        np.testing.assert_allclose(ours, arrays[f"{name}_f32"], **SINGLE, err_msg=message)


@pytest.fixture
def golden_runs(golden_file, load, llava_folder, any_llava, monkeypatch):
    """Every run with its question; an ``eos`` run has its own end token while it is yielded."""
    data = load(golden_file)
    samples = sorted((llava_folder / "samples").glob("*.npz"))
    config = any_llava.model.generation_config
    usual = config.eos_token_id

    def runs():
        for name, arrays in runs_of(data):
            ended = name.endswith(".eos")
            config.eos_token_id = int(arrays["ids"][-1]) if ended else usual
            question = question_of(llava_folder, load(samples[int(arrays["sample"])]))
            yield name, arrays, question
        config.eos_token_id = usual

    yield runs()
    config.eos_token_id = usual


def limit_of(name, arrays):
    """New tokens allowed: an ``eos`` run may go on, but does not."""
    limit = re.fullmatch(r"n(\d+)", name.rsplit(".", 1)[-1])
    return int(limit[1]) if limit else len(arrays["ids"]) + 2


@attention
def test_own_responses(any_llava, golden_runs):
    seen = 0
    for name, arrays, question in golden_runs:
        layers = layers_of(arrays) or RECIPE.layers
        prompts = any_llava.encode([question])
        state = prefill(any_llava, [question])
        for prefix in ({}, {"prefix": state.prefix, "cache": state.cache()}):
            (response,) = read_own_responses(
                any_llava,
                prompts,
                dict.fromkeys(layers),
                max_new_tokens=limit_of(name, arrays),
                **prefix,
            )
            ids = arrays["ids"].tolist()
            assert response.response_ids == until_end(any_llava, ids)
            # The last token, the end token included, is never fed back and has no row.
            assert response.n_rows == len(ids) - 1
            if response.n_rows == 0:
                # Published: the mean of no row, which is NaN. Here: no map, and no label.
                assert not any(key.endswith("output2images") for key in arrays), name
                assert response.maps == ()
                continue
            (maps,) = response.maps
            for layer in layers:
                check(maps[layer], arrays, f"layer{layer}.output2images", f"{name} {layer}")
            seen += 1
    assert seen


@attention
def test_maps_of_a_recipe(any_llava, golden_runs):
    """Grounding heads, sink heads, and the grounding map without sinks."""
    for name, arrays, question in golden_runs:
        if "sink_attn" not in arrays:
            assert len(arrays["ids"]) == 1, name
            continue
        (response,) = read_own_responses(
            any_llava,
            any_llava.encode([question]),
            recipe_heads(RECIPE),
            max_new_tokens=limit_of(name, arrays),
        )
        check_recipe(*recipe_maps(RECIPE, response.maps[0]), arrays, name)


def check_recipe(grounding, sink, arrays, name):
    half = arrays["sink_attn"].astype(np.float32)
    np.testing.assert_allclose(sink.ravel(), half, **HALF, err_msg=name)
    half = arrays["grounding_before_sink_removal"].astype(np.float32)
    np.testing.assert_allclose(grounding.ravel(), half, **HALF, err_msg=name)
    single = {layer: arrays.get(f"layer{layer}.output2images_f32") for layer in RECIPE.layers}
    if all(rows is not None for rows in single.values()):
        np.testing.assert_allclose(sink.ravel(), single[1].mean(0), **SINGLE)
        np.testing.assert_allclose(grounding.ravel(), single[4][[3, 1, 2]].mean(0), **SINGLE)
    cleaned = np.where(sink >= RECIPE.sink_threshold, 0, grounding).ravel()
    expected = arrays["grounding_after_sink_removal"].astype(np.float32)
    # Half precision may put a sink value that is this close on the other side of the threshold.
    gap = np.abs(sink.ravel() - RECIPE.sink_threshold)
    clear = gap > HALF["atol"] + HALF["rtol"] * RECIPE.sink_threshold
    assert clear.mean() > 0.9
    np.testing.assert_allclose(cleaned[clear], expected[clear], **HALF, err_msg=name)


@attention
def test_given_responses(any_llava, golden_runs):
    """The same rows, when the response is given and read in one pass.

    A given response has a row for its last token as well, which is never fed back while generating:
    so it is given without that token.
    """
    for name, arrays, question in golden_runs:
        given = tuple(arrays["ids"].tolist()[:-1])
        if not given:
            continue
        layers = layers_of(arrays)
        ids = any_llava.tokenize(question.text, len(question.images))
        question = type(question)(question.text, question.images, given)
        prompts = any_llava.encode_ids([ids], [question])
        (response,) = read_given_responses(any_llava, prompts, dict.fromkeys(layers))
        assert (response.response_ids, response.n_rows) == (given, len(given))
        for layer in layers:
            ours = response.maps[0][layer]
            check(ours, arrays, f"layer{layer}.output2images", f"{name} {layer}")


@attention
def test_prompt_rows_after_the_image(any_llava, golden_runs):
    """``question2images``: all rows behind the image, the last prompt token included."""
    for name, arrays, question in golden_runs:
        layers = layers_of(arrays)
        if not layers:
            continue
        (prompt,) = any_llava.encode([question])
        ((start, stop),) = prompt.image_spans
        block = prompt_block(any_llava, [prompt])
        keys = torch.arange(start, stop)
        heads = dict.fromkeys(layers)
        with (
            torch.no_grad(),
            AttentionTap(any_llava.decoder, heads, queries=slice(stop, None), keys=keys) as tap,
        ):
            any_llava.decoder(
                inputs_embeds=block.embeds,
                attention_mask=block.mask,
                position_ids=block.positions,
            )
        means = {layer: tap.weights(layer)[0].mean(dim=1).numpy() for layer in layers}
        for layer, mean in means.items():
            check(mean, arrays, f"layer{layer}.question2images", f"{name} {layer}")
        (layer,), (chosen,) = zip(*RECIPE.grounding.items(), strict=True)
        grounding = means[layer][list(chosen)].mean(axis=0)
        expected = arrays["grounding_q2i"].astype(np.float32)
        np.testing.assert_allclose(grounding, expected, **HALF, err_msg=name)


@attention
def test_proposals_from_attention(any_llava, golden_runs):
    """The training-free proposer shows the map that the published label script stores."""
    policy = BboxPolicy(threshold=0.5, relative=True)
    for name, arrays, question in golden_runs:
        proposer = AttentionProposer(RECIPE, policy, max_new_tokens=limit_of(name, arrays))
        ((proposal,),) = proposer.propose(prefill(any_llava, [question]))
        if "grounding_after_sink_removal" not in arrays:
            assert proposal.roi is None
            assert proposal.plan.crops == ()
            continue
        expected = arrays["grounding_after_sink_removal"].astype(np.float32)
        both = (proposal.roi.scores.ravel() > 0) & (expected > 0)
        assert both.sum() >= 0.9 * (expected > 0).sum()
        ours = proposal.roi.scores.ravel()[both]
        np.testing.assert_allclose(ours, expected[both], **HALF, err_msg=name)

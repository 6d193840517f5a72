"""LLaVA: response-to-image and prompt-to-image attention, against the published numbers.

The published rows are cast to half precision before they are averaged; ours stay in single
precision. Where the golden data has the same averages in single precision, they agree to rounding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from sdrpn_core import AttentionTap, LabelRecipe
from sdrpn_core.answering.attention_proposer import AttentionProposer
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.response_attention import (
    read_given_responses,
    read_own_responses,
    recipe_heads,
    recipe_maps,
)
from tests.golden.llava import question_of, sample_file
from tests.golden.runs import until_end

HALF = {"atol": 3e-5, "rtol": 5e-3}
#: README: 1e-6. A weight is a quotient of exponentials of scores around 10, which are summed in
#: single precision, and in another order here than there: their last place moves the weight by some
#: 1e-6 *of itself*. So a row that peaks above 0.1 is compared in proportion to its peak.
SINGLE = 1e-6
SINGLE_OF_PEAK = 1e-5
#: README: the layers and heads of the recipe that the golden run used.
RECIPE = LabelRecipe(grounding={4: (3, 1, 2)}, sink={1: "all"})


def run_names(file):
    """The names say how a run ended: ``a0.n6``, ``a0.eos``."""
    with np.load(file, allow_pickle=False) as data:
        return [key.removesuffix(".ids") for key in data.files if key.endswith(".ids")]


attention = pytest.mark.golden_entries("llava/attention.npz", run_names)


def layers_of(arrays):
    return sorted({int(m[1]) for key in arrays if (m := re.match(r"layer(\d+)\.", key))})


def check_single(ours, expected):
    """Rows ``(..., cells)`` against those that were averaged in single precision."""
    allowed = np.maximum(SINGLE, SINGLE_OF_PEAK * expected.max(axis=-1, keepdims=True))
    errors = np.abs(ours - expected)
    assert (errors <= allowed).all(), f"{(errors / allowed).max()} times what is allowed"


def check(ours, arrays, name):
    ours = ours.reshape(len(ours), -1)
    np.testing.assert_allclose(ours, arrays[name].astype(np.float32), **HALF, err_msg=name)
    if f"{name}_f32" in arrays:
        check_single(ours, arrays[f"{name}_f32"])


def check_without_sinks(ours, arrays):
    """A grounding map without sinks; the published sinks were found in half precision.

    So a cell that lies this close to the threshold may have been removed there and not here, or
    the other way round: it must be one of the two.
    """
    expected = arrays["grounding_after_sink_removal"].astype(np.float32)
    whole = arrays["grounding_before_sink_removal"].astype(np.float32)
    gap = np.abs(arrays["sink_attn"].astype(np.float32) - RECIPE.sink_threshold)
    clear = gap > HALF["atol"] + HALF["rtol"] * RECIPE.sink_threshold
    np.testing.assert_allclose(ours[clear], expected[clear], **HALF)
    removed = ours[~clear] == 0
    np.testing.assert_allclose(ours[~clear], np.where(removed, 0, whole[~clear]), **HALF)


@dataclass(frozen=True)
class AttentionRun:
    """A published run: its arrays, its question, and how many new tokens were allowed."""

    arrays: Mapping[str, np.ndarray]
    question: Question
    limit: int

    def needs(self, name):
        """Skips where an array is missing, as in a run of one token."""
        if name not in self.arrays:
            assert len(self.arrays["ids"]) == 1
            pytest.skip("a response of one token has no attention row")


@pytest.fixture
def golden_run(golden_file, golden_entry, load, llava_folder, any_llava, monkeypatch):
    """The run of this name; an ``eos`` run may go on for two tokens more, but ends by itself."""
    prefix = f"{golden_entry}."
    data = load(golden_file)
    arrays = {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}
    question = question_of(llava_folder, load(sample_file(llava_folder, arrays["sample"])))
    limit = re.fullmatch(r"n(\d+)", golden_entry.rsplit(".", 1)[-1])
    if limit:
        return AttentionRun(arrays, question, int(limit[1]))
    config = any_llava.model.generation_config
    monkeypatch.setattr(config, "eos_token_id", int(arrays["ids"][-1]))
    return AttentionRun(arrays, question, len(arrays["ids"]) + 2)


@attention
def test_own_responses(any_llava, golden_run):
    arrays = golden_run.arrays
    layers = layers_of(arrays) or RECIPE.layers
    prompts = any_llava.encode([golden_run.question])
    state = prefill(any_llava, [golden_run.question])
    ids = arrays["ids"].tolist()
    for prefix in ({}, {"prefix": state.prefix, "cache": state.cache()}):
        (response,) = read_own_responses(
            any_llava, prompts, dict.fromkeys(layers), max_new_tokens=golden_run.limit, **prefix
        )
        assert response.response_ids == until_end(any_llava, ids)
        # The last token, the end token included, is never fed back and has no row.
        assert response.n_rows == len(ids) - 1
        if response.n_rows == 0:
            # Published: the mean of no row, which is NaN. Here: no map, and no label.
            assert not any(key.endswith("output2images") for key in arrays)
            assert response.maps == ()
            continue
        (maps,) = response.maps
        for layer in layers:
            check(maps[layer], arrays, f"layer{layer}.output2images")


@attention
def test_maps_of_a_recipe(any_llava, golden_run):
    """Grounding heads, sink heads, and the grounding map without sinks."""
    golden_run.needs("sink_attn")
    arrays = golden_run.arrays
    (response,) = read_own_responses(
        any_llava,
        any_llava.encode([golden_run.question]),
        recipe_heads(RECIPE),
        max_new_tokens=golden_run.limit,
    )
    grounding, sink = (found.ravel() for found in recipe_maps(RECIPE, response.maps[0]))
    for ours, name in ((sink, "sink_attn"), (grounding, "grounding_before_sink_removal")):
        np.testing.assert_allclose(ours, arrays[name].astype(np.float32), **HALF, err_msg=name)
    single = {layer: arrays.get(f"layer{layer}.output2images_f32") for layer in RECIPE.layers}
    if all(rows is not None for rows in single.values()):
        check_single(sink, single[1].mean(0))
        check_single(grounding, single[4][[3, 1, 2]].mean(0))
    check_without_sinks(np.where(sink >= RECIPE.sink_threshold, 0, grounding), arrays)


@attention
def test_given_responses(any_llava, golden_run):
    """The same rows, when the response is given and read in one pass.

    A given response has a row for its last token as well, which is never fed back while generating:
    so it is given without that token.
    """
    arrays, question = golden_run.arrays, golden_run.question
    given = tuple(arrays["ids"].tolist()[:-1])
    if not given:
        pytest.skip("a response of one token has no attention row")
    layers = layers_of(arrays)
    ids = any_llava.tokenize(question.text, len(question.images))
    question = type(question)(question.text, question.images, given)
    prompts = any_llava.encode_ids([ids], [question])
    (response,) = read_given_responses(any_llava, prompts, dict.fromkeys(layers))
    assert (response.response_ids, response.n_rows) == (given, len(given))
    for layer in layers:
        check(response.maps[0][layer], arrays, f"layer{layer}.output2images")


@attention
def test_prompt_rows_after_the_image(any_llava, golden_run):
    """``question2images``: all rows behind the image, the last prompt token included."""
    golden_run.needs("grounding_q2i")
    arrays = golden_run.arrays
    layers = layers_of(arrays)
    (prompt,) = any_llava.encode([golden_run.question])
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
        check(mean, arrays, f"layer{layer}.question2images")
    (layer,), (chosen,) = zip(*RECIPE.grounding.items(), strict=True)
    grounding = means[layer][list(chosen)].mean(axis=0)
    expected = arrays["grounding_q2i"].astype(np.float32)
    np.testing.assert_allclose(grounding, expected, **HALF)


@attention
def test_proposals_from_attention(any_llava, golden_run):
    """The training-free proposer shows the map that the published label script stores."""
    policy = BboxPolicy(threshold=0.5, relative=True)
    proposer = AttentionProposer(RECIPE, policy, max_new_tokens=golden_run.limit)
    ((proposal,),) = proposer.propose(prefill(any_llava, [golden_run.question]))
    if "grounding_after_sink_removal" in golden_run.arrays:
        check_without_sinks(proposal.roi.scores.ravel(), golden_run.arrays)
    else:
        assert len(golden_run.arrays["ids"]) == 1
        assert proposal.roi is None
        assert proposal.plan.crops == ()

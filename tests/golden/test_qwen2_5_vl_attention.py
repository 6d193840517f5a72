"""Qwen2.5-VL: response-to-image attention, against the published numbers in half precision.

The published rows are cast to half precision before they are averaged, ours stay in single
precision: a mean may be off by one unit in the last place of a half.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from sdrpn_core import AttentionTap, LabelRecipe
from sdrpn_core.runtime.generation import generate, prompt_block
from sdrpn_core.taps.response_attention import read_own_responses, recipe_heads, recipe_maps
from tests.golden.qwen2_5_vl import case_file, read_case


def case_names(file):
    with np.load(file, allow_pickle=False) as data:
        return list(dict.fromkeys(key.split("/")[0] for key in data.files))


attention = pytest.mark.golden_entries("qwen2_5_vl/attention.npz", case_names)


def layers_of(arrays):
    found = (re.fullmatch(r"layer(\d+)_output2images", name) for name in arrays)
    return tuple(int(match[1]) for match in found if match)


def heads_in(name):
    """``3h1h2_5h0``: layer 3 heads 1 and 2, layer 5 head 0."""
    layers = (part.split("h") for part in name.split("_"))
    return {int(layer): tuple(map(int, heads)) for layer, *heads in layers}


def assert_same_halves(ours, published, message):
    """Equal up to one unit in the last place of half precision."""
    spacing = np.spacing(np.abs(published).astype(np.float16)).astype(np.float64)
    errors = np.abs(ours.astype(np.float64) - published.astype(np.float64))
    # Ours is not rounded to a half: half a unit more.
    assert (errors <= 1.5 * spacing).all(), f"{message}: {(errors / spacing).max()} units"


@pytest.fixture
def golden_run(golden_file, golden_entry, load, any_qwen, qwen_folder):
    """The case of this name, and its attention arrays."""
    file = case_file(qwen_folder, golden_entry)
    prefix = f"{golden_entry}/"
    data = load(golden_file)
    arrays = {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}
    return read_case(qwen_folder, file, load(file), any_qwen), arrays


@attention
def test_means_over_the_response(golden_run):
    case, arrays = golden_run
    layers = layers_of(arrays)
    (response,) = read_own_responses(
        case.backbone,
        case.backbone.encode([case.question]),
        dict.fromkeys(layers),
        max_new_tokens=len(arrays["gen_ids"]),
    )
    assert response.response_ids == tuple(arrays["gen_ids"].tolist())
    assert response.n_rows == len(arrays["gen_ids"]) - 1
    (maps,) = response.maps
    for layer in layers:
        ours = maps[layer].reshape(len(maps[layer]), -1)
        assert_same_halves(ours, arrays[f"layer{layer}_output2images"], f"layer {layer}")


@attention
def test_single_rows(golden_run):
    """Every decoding step's row, and the row of the last prompt token."""
    case, arrays = golden_run
    layers = layers_of(arrays)
    (prompt,) = case.backbone.encode([case.question])
    ((start, stop),) = prompt.image_spans
    block = prompt_block(case.backbone, [prompt])
    n_tokens = len(arrays["gen_ids"])
    queries = slice(len(prompt) - 1, None)
    keys = torch.arange(start, stop)
    with AttentionTap(
        case.backbone.decoder, dict.fromkeys(layers), queries=queries, keys=keys
    ) as tap:
        generate(case.backbone, block, max_new_tokens=n_tokens)
    for layer in layers:
        rows = torch.cat([part.weights for part in tap.rows[layer]], dim=2)[0].numpy()
        assert rows.shape[1] == n_tokens
        name = f"layer {layer}"
        assert_same_halves(rows[:, 0], arrays[f"layer{layer}_question2images"], name)
        steps = rows[:, 1:].transpose(1, 0, 2)
        assert_same_halves(steps, arrays[f"layer{layer}_output2images_steps"], name)
        mass = steps.sum(axis=2).mean(axis=0)
        # A sum of hundreds of halves, whose rounding errors add up.
        published = arrays[f"layer{layer}_output2image_mean"].astype(np.float64)
        np.testing.assert_allclose(mass, published, rtol=2e-3, err_msg=name)


@attention
def test_maps_of_a_recipe(golden_run):
    """The names of the published maps say of which heads they are the mean."""
    case, arrays = golden_run
    kinds = {name.partition("_")[0]: name for name in arrays if re.match("(grounding|sink)_", name)}
    if kinds.keys() != {"grounding", "sink"}:
        pytest.skip(f"case {case.name} has no maps of a recipe")
    recipe = LabelRecipe(**{kind: heads_in(n.partition("_")[2]) for kind, n in kinds.items()})
    (response,) = read_own_responses(
        case.backbone,
        case.backbone.encode([case.question]),
        recipe_heads(recipe),
        max_new_tokens=len(arrays["gen_ids"]),
    )
    grounding, sink = recipe_maps(recipe, response.maps[0])
    assert_same_halves(sink, arrays[kinds["sink"]], "sink")
    # A mean of some halves: each may be off by its own last place.
    largest = max(float(m.max()) for m in response.maps[0].values())
    allowed = 1.5 * float(np.spacing(np.float16(largest)))
    np.testing.assert_allclose(grounding, arrays[kinds["grounding"]], atol=allowed, rtol=0)

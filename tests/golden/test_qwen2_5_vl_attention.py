"""Qwen2.5-VL: response-to-image attention, against the published numbers in half precision.

The published rows are cast to half precision before they are averaged, ours stay in single
precision: a mean may be off by one unit in the last place of a half.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdrpn_core import AttentionTap, LabelRecipe
from sdrpn_core.runtime.generation import generate, prompt_block
from sdrpn_core.taps.response_attention import read_own_responses, recipe_heads, recipe_maps
from tests.golden.qwen2_5_vl import read_case

attention = pytest.mark.golden_files("qwen2_5_vl/attention.npz")

LAYERS = (1, 3, 5)
#: README: layer 3 heads 1 and 2 with layer 5 head 0; sinks by layer 1 head 3.
RECIPE = LabelRecipe(grounding={3: (1, 2), 5: (0,)}, sink={1: (3,)})


def assert_same_halves(ours, published, message):
    """Equal up to one unit in the last place of half precision."""
    spacing = np.spacing(np.abs(published).astype(np.float16)).astype(np.float64)
    errors = np.abs(ours.astype(np.float64) - published.astype(np.float64))
    # Ours is not rounded to a half: half a unit more.
    assert (errors <= 1.5 * spacing).all(), f"{message}: {(errors / spacing).max()} units"


@pytest.fixture
def golden_runs(golden_file, load, any_qwen, qwen_folder):
    data = load(golden_file)
    runs = []
    for name in dict.fromkeys(key.split("/")[0] for key in data):
        file = qwen_folder / f"case_{name}.npz"
        arrays = {k.split("/", 1)[1]: v for k, v in data.items() if k.startswith(f"{name}/")}
        runs.append((read_case(qwen_folder, file, load(file), any_qwen), arrays))
    return runs


@attention
def test_means_over_the_response(golden_runs):
    for case, arrays in golden_runs:
        (response,) = read_own_responses(
            case.backbone,
            case.backbone.encode([case.question]),
            dict.fromkeys(LAYERS),
            max_new_tokens=len(arrays["gen_ids"]),
        )
        assert response.response_ids == tuple(arrays["gen_ids"].tolist())
        assert response.n_rows == len(arrays["gen_ids"]) - 1
        (maps,) = response.maps
        for layer in LAYERS:
            ours = maps[layer].reshape(len(maps[layer]), -1)
            expected = arrays[f"layer{layer}_output2images"]
            assert_same_halves(ours, expected, f"{case.name} layer {layer}")


@attention
def test_single_rows(golden_runs):
    """Every decoding step's row, and the row of the last prompt token."""
    for case, arrays in golden_runs:
        (prompt,) = case.backbone.encode([case.question])
        ((start, stop),) = prompt.image_spans
        block = prompt_block(case.backbone, [prompt])
        n_tokens = len(arrays["gen_ids"])
        queries = slice(len(prompt) - 1, None)
        keys = torch.arange(start, stop)
        with AttentionTap(
            case.backbone.decoder, dict.fromkeys(LAYERS), queries=queries, keys=keys
        ) as tap:
            generate(case.backbone, block, max_new_tokens=n_tokens)
        for layer in LAYERS:
            rows = torch.cat([part.weights for part in tap.rows[layer]], dim=2)[0].numpy()
            assert rows.shape[1] == n_tokens
            name = f"{case.name} layer {layer}"
            assert_same_halves(rows[:, 0], arrays[f"layer{layer}_question2images"], name)
            steps = rows[:, 1:].transpose(1, 0, 2)
            assert_same_halves(steps, arrays[f"layer{layer}_output2images_steps"], name)
            mass = steps.sum(axis=2).mean(axis=0)
            # A sum of some 300 halves, whose rounding errors add up.
            published = arrays[f"layer{layer}_output2image_mean"].astype(np.float64)
            np.testing.assert_allclose(mass, published, rtol=2e-3, err_msg=name)


@attention
def test_maps_of_a_recipe(golden_runs):
    for case, arrays in golden_runs:
        (response,) = read_own_responses(
            case.backbone,
            case.backbone.encode([case.question]),
            recipe_heads(RECIPE),
            max_new_tokens=len(arrays["gen_ids"]),
        )
        grounding, sink = recipe_maps(RECIPE, response.maps[0])
        assert_same_halves(sink, arrays["sink_1h3"], case.name)
        expected = arrays["grounding_3h1h2_5h0"]
        # A mean of three halves: each may be off by its own last place.
        largest = max(float(m.max()) for m in response.maps[0].values())
        allowed = 1.5 * float(np.spacing(np.float16(largest)))
        np.testing.assert_allclose(grounding, expected, atol=allowed, rtol=0, err_msg=case.name)

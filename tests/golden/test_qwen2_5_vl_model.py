"""Qwen2.5-VL: from the image to the RoI map, against the published numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sdrpn_core import FeatureTap, RoIMap
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.grid.roi_map import gaussian_blur
from sdrpn_core.runtime.generation import prompt_block
from tests.golden.qwen2_5_vl import BLURRED, EMBEDDINGS, LOGITS, MAPS, STATES
from tests.golden.runs import run

#: The same pixels were computed by another version of the resizing code: sums in double precision.
PIXEL_SUMS = 1e-6
PIXELS = 1e-6
#: Sums over the 1,176 values of a patch, in single precision.
ROW_SUMS = 1e-3

cases = pytest.mark.golden_files("qwen2_5_vl/case_*.npz")


def check_pixels(pixels: torch.Tensor, arrays, prefix=""):
    """``pixel_values`` against what is stored of the published ones."""
    assert list(pixels.shape) == arrays[f"{prefix}pv_shape"].tolist()
    values = pixels.double()
    sums = [values.sum(), values.abs().sum(), values.square().sum()]
    np.testing.assert_allclose(sums, arrays[f"{prefix}pv_sums"], rtol=PIXEL_SUMS)
    rows = arrays[f"{prefix}pv_rowsum"]
    np.testing.assert_allclose(values.sum(dim=1), rows, atol=ROW_SUMS, rtol=PIXEL_SUMS)
    if f"{prefix}pv_rows" in arrays:
        chosen = pixels[arrays[f"{prefix}pv_idx"]]
        np.testing.assert_allclose(chosen, arrays[f"{prefix}pv_rows"], atol=PIXELS, rtol=0)


@cases
def test_the_image(case):
    data, settings = case.data, case.settings
    (image,) = case.question.images
    assert image.size == tuple(settings["image_size_wh"])
    item = case.backbone.preprocess(image)
    assert item.tensors["image_grid_thw"].tolist() == data["image_grid_thw"].tolist()
    assert item.geometry.grid == tuple(settings["grid_hw"])
    assert np.prod(item.geometry.grid) == settings["n_visual_tokens"]
    check_pixels(item.tensors["pixel_values"], data)
    with torch.no_grad():
        (features,) = case.backbone.image_features([item])
    chosen = features[data["visual_embeds_idx"]].numpy()
    np.testing.assert_allclose(chosen, data["visual_embeds_rows"], atol=EMBEDDINGS, rtol=0)


@cases
def test_the_prompt(case):
    """Ids, positions and the logits behind the image, in one forward pass."""
    data = case.data
    (prompt,) = case.backbone.encode([case.question])
    assert len(prompt) == len(data["input_ids"])
    positions = case.backbone.positions(prompt)
    np.testing.assert_array_equal(positions, data["position_ids"])
    assert positions.max() + 1 - len(prompt) == data["rope_delta"]
    expected = data["base_logits_tail"]
    assert len(expected) == len(prompt) - prompt.prefix_length
    block = prompt_block(case.backbone, [prompt])
    with torch.no_grad():
        logits = case.backbone.model(
            inputs_embeds=block.embeds,
            attention_mask=block.mask,
            position_ids=block.positions,
            logits_to_keep=len(expected),
        ).logits
    np.testing.assert_allclose(logits[0].numpy(), expected, atol=LOGITS, rtol=0)


@cases
def test_the_plain_answer(case):
    data = case.data
    result = run(case.backbone, case.question, None, len(data["base_gen_ids"]))
    assert result.answer.ids == tuple(data["base_gen_ids"].tolist())
    np.testing.assert_allclose(result.logits, data["base_gen_logits"], atol=LOGITS, rtol=0)
    first, *decoded = result.positions
    np.testing.assert_array_equal(first, data["position_ids"])
    last = int(data["position_ids"].max())
    assert [step.ravel().tolist() for step in decoded] == [
        [last + 1 + step] * 3 for step in range(len(decoded))
    ]


@cases
def test_tapped_states(case, case_rpn):
    """At the branch layer, and behind the RPN's trunk: in one pass, and on a shared cache."""
    data, backbone = case.data, case.backbone
    state = prefill(backbone, [case.question])
    block = prompt_block(backbone, state.prompts)
    with torch.no_grad(), FeatureTap(backbone.decoder, case_rpn.config.branch) as tap:
        whole = tap.run(
            inputs_embeds=block.embeds, attention_mask=block.mask, position_ids=block.positions
        )
    ((first_visual, _),) = state.prompts[0].image_spans
    question = state.question_features(case_rpn.branch)
    scorers = {
        "in one pass": (whole, lambda: case_rpn(whole, state.places())),
        "on a shared cache": (
            question,
            lambda: RPNProposer(case_rpn).maps(prefill(backbone, [case.question], case_rpn)),
        ),
    }
    for features, score in scorers.values():
        branch = features.hidden[0, -1].numpy()
        np.testing.assert_allclose(branch, data["hidden_after_K_last"], atol=STATES, rtol=0)
        hidden: list[torch.Tensor] = []
        handle = case_rpn.layers[-1].register_forward_hook(
            lambda _, args, output, kept=hidden: kept.append(output)
        )
        with torch.no_grad():
            score()
        handle.remove()
        trunk = torch.cat(hidden, dim=1)[0].numpy()
        np.testing.assert_allclose(trunk[-1], data["twig_hidden_last"], atol=STATES, rtol=0)
        visual = data["twig_hidden_first_visual"]
        np.testing.assert_allclose(trunk[first_visual], visual, atol=STATES, rtol=0)


@cases
def test_the_map(case, case_rpn):
    """Scores, blurred probabilities, and what any token of the question scores."""
    data = case.data
    for policy, _, arrays in case.thresholds():
        proposer = RPNProposer(case_rpn, policy)
        (roi,) = proposer.maps(prefill(case.backbone, [case.question], case_rpn))
        np.testing.assert_allclose(roi.scores, data["roi_logits"], atol=MAPS, rtol=0)
        np.testing.assert_allclose(policy.smoothed(roi), data["roi_blur"], atol=BLURRED, rtol=0)
        np.testing.assert_array_equal(policy.above(roi), arrays["mask"].astype(bool))
        if "question_roi_prob" in data:
            ours = roi.question_probabilities()
            np.testing.assert_allclose(ours, data["question_roi_prob"], atol=BLURRED, rtol=0)
        else:
            assert roi.question_scores is None
            assert roi.scores.size <= 1024
    blurred = gaussian_blur(data["roi_sigmoid_masked"])
    np.testing.assert_allclose(blurred, data["roi_blur"], atol=BLURRED, rtol=0)


@cases
def test_the_corner_counts_as_nothing_on_large_grids_only(case):
    """The published masked map, before the blur."""
    data = case.data
    for policy, _, _ in case.thresholds():
        roi = RoIMap(data["roi_logits"])
        ours = replace(policy, blur=False).smoothed(roi)
        np.testing.assert_allclose(ours, data["roi_sigmoid_masked"], atol=BLURRED, rtol=0)
        h, w = ours.shape
        corner = np.zeros_like(ours, dtype=bool)
        corner[: h // 4, 0] = corner[0, : w // 4] = h * w > 768
        np.testing.assert_array_equal(ours == 0, corner)

"""Qwen3-VL: from the image to the two-stage answer, against the published numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdrpn_core import RPN, FeatureTap
from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_published import import_rpn
from sdrpn_qwen3_vl import head as published_head
from tests.golden.qwen2_5_vl import prompt_text
from tests.golden.qwen3_vl import (
    EMBEDDINGS,
    LOGITS,
    MAPS,
    POSITIONS,
    PROBABILITIES,
    ROW_SUMS,
    SINK_THRESHOLD,
    STATES,
    Case,
    golden_rpn,
    load_qwen3,
    published_policy,
    read_case,
    with_budget,
)
from tests.golden.runs import run

cases = pytest.mark.golden_files("qwen3_vl/case_*.npz")

#: Row sums and a first row: stored in single precision.
PIXEL_SUMS = 1e-3


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def any_qwen3(request: pytest.FixtureRequest, golden: Path) -> Any:
    """The golden Qwen3-VL under each attention implementation, without a processor."""
    return load_qwen3(golden / "qwen3_vl", request.param)


@pytest.fixture
def case(golden_file: Path, load: Callable[[Path], dict[str, Any]], any_qwen3: Any) -> Case:
    return read_case(golden_file.parent, golden_file, load(golden_file), any_qwen3)


@pytest.fixture
def rpn(case: Case, golden_file: Path) -> RPN:
    return golden_rpn(golden_file.parent, case.backbone)


def published_gate_threshold(folder: Path) -> float:
    """What the gate of the golden model was made with."""
    return float(json.loads((folder / "gate/gate.json").read_text())["default_threshold"])


def close(found: Any, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, atol=tolerance, rtol=0)


@cases
def test_the_image(case):
    data, width = case.data, case.backbone.hidden_size
    (image,) = case.question.images
    assert image.size == tuple(case.settings["size"])
    item = case.backbone.preprocess(image)
    assert item.tensors["image_grid_thw"].tolist() == data["image_grid_thw"].tolist()
    assert item.geometry.grid == tuple(case.settings["grid"])
    pixels = item.tensors["pixel_values"]
    close(pixels.double().sum(dim=1), data["pv_rowsum"], PIXEL_SUMS)
    close(pixels[0], data["pv_row0"], 1e-6)
    with torch.no_grad():
        (rows,) = case.backbone.image_features([item])
    embeds, *levels = rows.split(width, dim=-1)
    close(embeds, data["visual_embeds"], EMBEDDINGS)
    close(torch.stack(levels), data["deepstack"], EMBEDDINGS)


@cases
def test_the_prompt_and_the_plain_answer(case):
    data = case.data
    (prompt,) = case.backbone.encode([case.question])
    assert case.backbone.token_ids(prompt) == data["input_ids"].tolist()
    positions = case.backbone.positions(prompt)
    np.testing.assert_array_equal(positions, data["position_ids"])
    assert positions.max() + 1 - len(prompt) == data["rope_delta"]
    found = run(case.backbone, case.question, None, len(data["plain_gen_ids"]))
    assert found.answer.ids == tuple(data["plain_gen_ids"].tolist())
    close(found.logits, data["plain_gen_logits"], LOGITS)


@cases
def test_states_behind_the_trunk(case, rpn):
    """In one pass over the prompt."""
    (prompt,) = case.backbone.encode([case.question])
    block = prompt_block(case.backbone, [prompt])
    with torch.no_grad(), FeatureTap(case.backbone.decoder, rpn.branch) as tap:
        features = tap.run(
            inputs_embeds=block.embeds, attention_mask=block.mask, position_ids=block.positions
        )
        hidden = rpn.trunk(features).hidden[0]
    close(hidden[-1], case.data["rpn_hidden_last"], STATES)
    close(hidden[0], case.data["rpn_hidden_first"], STATES)


@cases
def test_the_map(case, rpn, golden_file, monkeypatch):
    """Scores, sinks, and what the threshold applies to."""
    data = case.data
    bare = golden_rpn(golden_file.parent, case.backbone, head="qk")
    (raw,) = RPNProposer(bare).maps(prefill(case.backbone, [case.question], bare))
    close(raw.scores, data["roi_logits"], MAPS)
    sinks: list[torch.Tensor] = []

    sink_scores = published_head.sink_scores

    def recorded(*args: Any) -> torch.Tensor:
        sinks.append(sink_scores(*args))
        return sinks[-1]

    monkeypatch.setattr(published_head, "sink_scores", recorded)
    (roi,) = RPNProposer(rpn).maps(prefill(case.backbone, [case.question], rpn))
    close(sinks[-1].view(roi.grid), data["sink_score"], PROBABILITIES)
    np.testing.assert_array_equal(sinks[-1].view(roi.grid) < SINK_THRESHOLD, data["sink_keep"])
    close(roi.probabilities(), data["roi_prob"], PROBABILITIES)
    for policy, _, arrays in case.thresholds():
        close(policy.smoothed(roi), data["roi_blur"], PROBABILITIES)
        np.testing.assert_array_equal(policy.above(roi), arrays["mask"].astype(bool))


@cases
@pytest.mark.parametrize("reused", [True, False], ids=["reused", "ordinary"])
def test_every_threshold(case, rpn, reused):
    (image,) = case.question.images
    backbone, width = case.backbone, case.backbone.hidden_size
    backbone.crops_reuse_positions = reused
    scheme = "" if reused else "ropepos_"
    for policy, status, arrays in case.thresholds():
        proposer = RPNProposer(rpn, policy)
        if status == "no_foreground":
            found = run(backbone, case.question, proposer, len(case.data["plain_gen_ids"]))
            assert found.answer.outcome is Outcome.NO_ROI
            assert found.answer.ids == tuple(arrays["gen_ids"].tolist())
            close(found.logits, arrays["gen_logits"], LOGITS)
            continue
        state = prefill(backbone, [case.question], rpn)
        ((proposal,),) = proposer.propose(state)
        (crop,) = proposal.plan.crops
        assert crop.grid_box == tuple(arrays["box_grid"].tolist())
        assert crop.box == tuple(arrays["box_src"].tolist())
        item = backbone.preprocess_crop(image.crop(crop.box))
        assert item.tensors["image_grid_thw"].tolist() == arrays["crop_grid_thw"].tolist()
        ((_, (segment,)),) = encode_crops(backbone, [(image, proposal.plan)])
        close(segment.features[:, :width].sum(dim=1), arrays["crop_embeds_sum"], ROW_SUMS)
        close(segment.features[0, :width], arrays["crop_embeds_row0"], EMBEDDINGS)
        full = state.prompts[0].with_crops((backbone.frame_crop(segment),))
        ids = np.array(backbone.token_ids(full))
        np.testing.assert_array_equal(ids, arrays["full_ids"])
        visual = arrays["visual_mask"].astype(bool)
        np.testing.assert_array_equal(ids == backbone.image_token_id, visual)
        close(backbone.positions(full), arrays[f"{scheme}full_pos"], POSITIONS)
        levels = backbone.embed(full)[:, width:].unflatten(1, (-1, width)).sum(dim=-1).T
        close(levels[:, visual], arrays["deepstack_sum"], ROW_SUMS)
        assert not levels[:, ~visual].any()
        found = run(backbone, case.question, proposer, len(arrays[f"{scheme}gen_ids"]))
        assert found.answer.ids == tuple(arrays[f"{scheme}gen_ids"].tolist())
        close(found.logits[-len(found.answer.ids) :], arrays[f"{scheme}gen_logits"], LOGITS)


@pytest.mark.golden_files("qwen3_vl/text_only.npz")
def test_without_an_image(golden_file, load, any_qwen3):
    data = load(golden_file)
    backbone = with_budget(any_qwen3, {"min_pixels": 65536, "max_pixels": 65536})
    question = Question(prompt_text(data["text_ids"], backbone.image_token_id))
    new, logits = data["text_gen_ids"], data["text_gen_logits"]
    found = run(backbone, question, None, len(new))
    assert found.answer.ids == tuple(new.tolist())
    close(found.logits, logits, LOGITS)


@cases
def test_the_released_checkpoint(golden_file, load):
    """The published names beside the base, the gate's among them."""
    folder = golden_file.parent
    released = load_qwen3(folder, "sdpa", "model_released_style")
    case = read_case(folder, golden_file, load(golden_file), released)
    rpn = import_rpn(folder / "model_released_style", case.backbone)
    golden = golden_rpn(folder, case.backbone)
    gate = load_file(folder / "gate/gate.safetensors")
    expected = {**golden.state_dict(), **{f"gate.{name}": gate[name] for name in gate}}
    assert rpn.state_dict().keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(rpn.state_dict()[name], tensor), name
    assert rpn.config.gate is not None
    assert rpn.config.gate.threshold == published_gate_threshold(folder)
    proposer = RPNProposer(rpn, gate_threshold=0)
    (roi,) = proposer.maps(prefill(case.backbone, [case.question], rpn))
    close(roi.probabilities(), case.data["roi_prob"], PROBABILITIES)
    assert proposer.policy == published_policy(0.15)

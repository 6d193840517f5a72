"""Qwen2.5-VL: prompts without an image and with several, and maps that are distributions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sdrpn_core import open_image
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.adapter import Question
from tests.golden.qwen2_5_vl import (
    LOGITS,
    golden_rpn,
    prompt_text,
    published_policy,
    read_case,
    with_budget,
)
from tests.golden.runs import run

#: What an error of 1e-4 in the scores (README) does to their softmax, relative to its values.
DISTRIBUTION = 1e-4

extra = pytest.mark.golden_files("qwen2_5_vl/extra.npz")


@pytest.fixture
def golden_extra(golden_file, load):
    return load(golden_file), json.loads(golden_file.with_suffix(".json").read_text())


def check_plain(result, data, prefix):
    assert result.answer.ids == tuple(data[f"{prefix}gen_ids"].tolist())
    np.testing.assert_allclose(result.logits, data[f"{prefix}gen_logits"], atol=LOGITS, rtol=0)


@extra
def test_without_an_image(golden_extra, any_qwen, qwen_folder):
    data, settings = golden_extra
    backbone = with_budget(any_qwen, settings)
    text = prompt_text(data["text_only/input_ids"], backbone.image_token_id)
    proposer = RPNProposer(golden_rpn(qwen_folder, backbone), published_policy(0.1))
    n_tokens = len(data["text_only/gen_ids"])
    for chosen in (None, proposer):
        check_plain(run(backbone, Question(text), chosen, n_tokens), data, "text_only/")


@extra
@pytest.mark.parametrize("name", ["multi2", "multi3"])
def test_several_images(golden_extra, any_qwen, qwen_folder, name):
    """The plain model's answer, and with a proposer a region for every image.

    The published two-stage code fails on two images, and on three it reads logits and cache of
    the branch instead of the model's own.
    """
    data, settings = golden_extra
    backbone = with_budget(any_qwen, settings)
    grids = data[f"{name}/image_grid_thw"]
    images = tuple(open_image(qwen_folder / path) for path in settings["images"][: len(grids)])
    ids = data[f"{name}/input_ids"]
    question = Question(prompt_text(ids, backbone.image_token_id), images)
    (prompt,) = backbone.encode([question])
    assert len(prompt) == len(ids)
    assert [image.grid for image in prompt.images] == [(h // 2, w // 2) for _, h, w in grids]
    n_tokens = len(data[f"{name}/base_gen_ids"])
    check_plain(run(backbone, question, None, n_tokens), data, f"{name}/base_")

    rpn = golden_rpn(qwen_folder, backbone)
    impossible = RPNProposer(rpn, published_policy(0.999999))
    check_plain(run(backbone, question, impossible, n_tokens), data, f"{name}/base_")
    found = run(backbone, question, RPNProposer(rpn, published_policy(0.02)), n_tokens).answer
    assert len(found.proposals) == len(images)
    assert [proposal.roi.grid for proposal in found.proposals] == [i.grid for i in prompt.images]
    assert found.boxes
    assert found.n_visual_tokens > prompt.n_visual_tokens


@extra
def test_a_map_that_is_a_distribution(golden_extra, any_qwen, qwen_folder, load):
    """The branch as trained with mse: the scores; its published threshold means nothing."""
    data, _ = golden_extra
    name = "o1_mid_red"
    file = qwen_folder / f"case_{name}.npz"
    case = read_case(qwen_folder, file, load(file), any_qwen)
    rpn = golden_rpn(qwen_folder, case.backbone, loss="mse")
    (roi,) = RPNProposer(rpn, published_policy(0.1)).maps(
        prefill(case.backbone, [case.question], rpn)
    )
    assert roi.kind == "distribution"
    np.testing.assert_allclose(
        roi.scores, data["mse_infer/roi_logits"], rtol=DISTRIBUTION, atol=1e-8
    )
    # Published: every cell lies above -0.15, so that the box is the whole image.
    h, w = roi.grid
    assert data["mse_infer/box_grid"].tolist() == [0, 0, w, h]

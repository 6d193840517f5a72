"""Qwen2.5-VL: prompts without an image and with several, and maps that are distributions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sdrpn_core import Outcome, open_image
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.question import Question
from tests.golden.qwen2_5_vl import (
    LOGITS,
    Case,
    golden_rpn,
    prompt_text,
    published_policy,
    read_case,
    with_budget,
)
from tests.golden.runs import run

#: What an error of 1e-4 in the scores (README) does to their softmax, relative to its values.
DISTRIBUTION = 1e-4

#: How like the scores of the same prompt are under two losses, and of no other: a correlation.
SAME_PROMPT = 0.9

extra = pytest.mark.golden_files("qwen2_5_vl/extra.npz")


def prompts_of_several_images(file):
    with np.load(file, allow_pickle=False) as data:
        names = dict.fromkeys(key.split("/")[0] for key in data.files)
    return [name for name in names if name.startswith("multi")]


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
    if "text_only/input_ids" not in data:
        pytest.skip("this set has no prompt without an image")
    text = prompt_text(data["text_only/input_ids"], backbone.image_token_id)
    proposer = RPNProposer(golden_rpn(qwen_folder, backbone), published_policy(0.1))
    n_tokens = len(data["text_only/gen_ids"])
    for chosen in (None, proposer):
        check_plain(run(backbone, Question(text), chosen, n_tokens), data, "text_only/")


@pytest.mark.golden_entries("qwen2_5_vl/extra.npz", prompts_of_several_images)
def test_several_images(golden_extra, golden_entry, any_qwen, qwen_folder):
    """The plain model's answer, and with a proposer a region for every image.

    The published two-stage code fails on two images, and on three it reads logits and cache of
    the branch instead of the model's own.
    """
    data, settings = golden_extra
    name = golden_entry
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
    maps = RPNProposer(rpn).maps(prefill(backbone, [question], rpn))
    peaks = [float(published_policy(0.5).smoothed(roi).max()) for roi in maps]
    above_all, below_all = (1 + max(peaks)) / 2, min(peaks) / 2
    nothing = RPNProposer(rpn, published_policy(above_all))
    check_plain(run(backbone, question, nothing, n_tokens), data, f"{name}/base_")
    found = run(backbone, question, RPNProposer(rpn, published_policy(below_all)), n_tokens).answer
    assert len(found.proposals) == len(images)
    assert [proposal.roi.grid for proposal in found.proposals] == [i.grid for i in prompt.images]
    plans = [proposal.plan for proposal in found.proposals]
    if not any(plan.crops for plan in plans):
        assert {plan.outcome for plan in plans} == {Outcome.TOO_SMALL}
        pytest.skip("every region of these images is smaller than a visual token")
    assert found.boxes
    assert found.n_visual_tokens > prompt.n_visual_tokens


def case_of(distribution, folder, load, model) -> Case:
    """The case of which this map is; the file does not name it, but the cases' scores tell."""
    likeness = {}
    for file in sorted(folder.glob("case_*.npz")):
        scores = load(file)["roi_logits"]
        if scores.shape == distribution.shape:
            logs = np.log(distribution)
            likeness[file] = np.corrcoef(logs.ravel(), scores.ravel())[0, 1]
    file = max(likeness, key=likeness.__getitem__, default=None)
    if file is None or likeness[file] < SAME_PROMPT:
        pytest.skip("the case of which this map is is not in this set")
    return read_case(folder, file, load(file), model)


@extra
def test_a_map_that_is_a_distribution(golden_extra, any_qwen, qwen_folder, load):
    """The branch as trained with mse: the scores; its published threshold means nothing."""
    data, _ = golden_extra
    if "mse_infer/roi_logits" not in data:
        pytest.skip("this set has no map of a branch trained with mse")
    case = case_of(data["mse_infer/roi_logits"], qwen_folder, load, any_qwen)
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

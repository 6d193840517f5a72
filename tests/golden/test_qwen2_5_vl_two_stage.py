"""Qwen2.5-VL: the two-stage answer, against the published numbers.

Nothing of the published run goes in but the image and the prompt: map, plan, crop, pruning and
answer are ours, and every number on the way is compared.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from sdrpn_core import Outcome
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.prompt import ImageSegment, Prompt
from tests.golden.qwen2_5_vl import (
    EMBEDDINGS,
    LOGITS,
    golden_rpn,
    published_policy,
    read_case,
)
from tests.golden.runs import run
from tests.golden.test_qwen2_5_vl_model import check_pixels

cases = pytest.mark.golden_files("qwen2_5_vl/case_*.npz")

STATUSES = {"inserted", "no_foreground", "crop_rejected"}


def token_ids(prompt: Prompt, image_token_id: int) -> list[int]:
    """A prompt as flat ids, with a placeholder per visual token."""
    ids: list[int] = []
    for segment in prompt.segments:
        if isinstance(segment, ImageSegment):
            ids.extend([image_token_id] * len(segment))
        else:
            ids.extend(segment.ids)
    return ids


def kept_flags(prompt: Prompt) -> np.ndarray:
    """Which tokens of the whole sequence, dropped ones included, a prompt holds."""
    flags = [
        np.ones(len(segment), dtype=bool)
        if not isinstance(segment, ImageSegment) or segment.keep is None
        else segment.keep.numpy().ravel()
        for segment in prompt.segments
    ]
    return np.concatenate(flags)


def check_crop(backbone, image, crop, segment, arrays):
    """The image that is encoded again, and which of its tokens stay."""
    item = backbone.preprocess_crop(image.crop(crop.box))
    assert item.tensors["image_grid_thw"].tolist() == arrays["crop_grid_thw"].tolist()
    check_pixels(item.tensors["pixel_values"], arrays, "crop_")
    with torch.no_grad():
        (features,) = backbone.image_features([item])
    chosen = features[arrays["crop_embeds_idx"]].numpy()
    np.testing.assert_allclose(chosen, arrays["crop_embeds_rows"], atol=EMBEDDINGS, rtol=0)
    np.testing.assert_array_equal(segment.keep.numpy(), arrays["crop_token_mask"].astype(bool))
    return features


def check_sequence(backbone, prompt, plan, segment, features, arrays):
    """Ids and positions of the whole sequence, and of what is left of it."""
    whole = ImageSegment(features, segment.grid)
    full = prompt.with_crops((backbone.frame_crop(whole),))
    assert token_ids(full, backbone.image_token_id) == arrays["full_ids"].tolist()
    positions = backbone.positions(full)
    np.testing.assert_array_equal(positions, arrays["full_pos"])
    kept = prompt.pruned((plan.keep,)).with_crops((backbone.frame_crop(segment),))
    np.testing.assert_array_equal(kept_flags(kept), arrays["keep"].astype(bool))
    left = backbone.positions(kept)
    np.testing.assert_array_equal(left, arrays["kept_pos"])
    lengths = [len(prompt), len(full), len(kept)]
    assert lengths == arrays["lens"].tolist()
    top = int(positions.max()) + 1
    assert [top - len(full), top - len(kept)] == arrays["rope_delta"].tolist()


def check_answer(case, proposer, arrays):
    result = run(case.backbone, case.question, proposer, len(arrays["gen_ids"]))
    assert result.answer.ids == tuple(arrays["gen_ids"].tolist())
    np.testing.assert_allclose(result.logits, arrays["gen_logits"], atol=LOGITS, rtol=0)
    decoded = [step.ravel().tolist() for step in result.positions[-len(arrays["decode_pos"]) :]]
    assert decoded == arrays["decode_pos"].tolist()
    return result.answer


@cases
def test_every_threshold(case, case_rpn):
    (image,) = case.question.images
    seen = []
    state = prefill(case.backbone, [case.question], case_rpn)
    for policy, status, arrays in case.thresholds():
        proposer = RPNProposer(case_rpn, policy)
        ((proposal,),) = proposer.propose(state)
        ((plan, segments),) = encode_crops(case.backbone, [(image, proposal.plan)])
        found = check_answer(case, proposer, arrays)
        assert found.outcome is plan.outcome
        seen.append(status)
        if status == "no_foreground":
            assert (plan.outcome, segments) == (Outcome.NO_ROI, ())
            assert "box_grid" not in arrays
        else:
            (crop,) = proposal.plan.crops
            assert crop.grid_box == tuple(arrays["box_grid"].tolist())
            assert crop.box == tuple(arrays["box_src"].tolist())
        if status == "crop_rejected":
            assert (plan.outcome, segments) == (Outcome.TOO_SMALL, ())
            # The two shapes that the published processor refuses.
            assert re.search("shorter than a visual token|aspect ratio", plan.reason)
        if status == "inserted":
            (segment,) = segments
            if plan.keep is None:
                assert "question_keep" not in arrays
            else:
                np.testing.assert_array_equal(plan.keep, arrays["question_keep"].astype(bool))
            features = check_crop(case.backbone, image, crop, segment, arrays)
            check_sequence(case.backbone, state.prompts[0], plan, segment, features, arrays)
        else:
            assert plan.keep is None
            assert arrays["lens"].tolist() == [len(state.prompts[0])] * 3
            assert found.ids == tuple(case.data["base_gen_ids"].tolist())
    assert set(seen) <= STATUSES


@pytest.mark.slow
@pytest.mark.parametrize("any_qwen", ["sdpa"], indirect=True)  # each alone: under both, above
def test_all_cases_in_one_batch(qwen_folder, load, any_qwen):
    """Pruned, cropped and plain answers side by side: each is the one that its question gets alone.

    One budget of pixels serves them all, the largest, under which large images are pruned and small
    ones are not.
    """
    files = sorted(qwen_folder.glob("case_*.npz"))
    if not files:
        pytest.skip("no cases")
    read = [read_case(qwen_folder, file, load(file), any_qwen) for file in files]
    backbone = max(read, key=lambda case: case.settings["max_pixels"]).backbone
    questions = [case.question for case in read]
    proposer = RPNProposer(golden_rpn(qwen_folder, backbone), published_policy(0.05))
    n_tokens = len(read[0].data["base_gen_ids"])
    together = answer_batch(backbone, questions, proposer, max_new_tokens=n_tokens)
    for question, found in zip(questions, together, strict=True):
        (alone,) = answer_batch(backbone, [question], proposer, max_new_tokens=n_tokens)
        assert (found.ids, found.boxes, found.outcome) == (alone.ids, alone.boxes, alone.outcome)
        assert found.n_visual_tokens == alone.n_visual_tokens
    plans = [answer.proposals[0].plan for answer in together]
    if {plan.keep is None for plan in plans if plan.crops} != {True, False}:
        pytest.skip("no pruned image of this set was answered beside one that is not")
    if not {plan.outcome for plan in plans} > {Outcome.OK}:
        pytest.skip("no plain answer of this set was given beside one with a crop")

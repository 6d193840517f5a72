"""The RoI map alone: the map of the two-stage answer, for the price of the lower layers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sdrpn_core import RPN
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import InputError
from sdrpn_core.rpn.prediction import predict_prompt_roi, predict_roi
from tests.tiny import tiny_image, tiny_llava

BRANCH = 2
QUESTIONS = [
    Question("which color is the circle ?", (tiny_image(0),)),
    Question("how many ?", (tiny_image(1, (40, 90)), tiny_image(2))),
    Question("yes or no ?"),
]


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava()


@pytest.fixture(scope="module", params=["qk", "conv"])
def rpn(request, backbone):
    return RPN.from_backbone(backbone, branch=BRANCH, n_layers=2, head=request.param)


def test_maps_equal_those_of_the_two_stage_answer(backbone, rpn):
    answers = answer_batch(backbone, QUESTIONS, RPNProposer(rpn), max_new_tokens=1)
    expected = [proposal.roi for answer in answers for proposal in answer.proposals]
    found = predict_prompt_roi(backbone, backbone.encode(QUESTIONS), rpn)
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected, strict=True):
        assert one.kind == other.kind
        np.testing.assert_allclose(one.scores, other.scores, atol=2e-4)
    spread = max(np.ptp(roi.scores) for roi in expected)
    assert spread > 0.1, "maps that are flat would agree by chance"


def test_only_the_layers_below_the_branch_run(backbone, rpn):
    calls: Counter[int] = Counter()
    handles = [
        layer.register_forward_hook(lambda *_, i=i: calls.update([i]))
        for i, layer in enumerate(backbone.layers)
    ]
    try:
        (roi,) = predict_roi(backbone, tiny_image(0), QUESTIONS[0].text, rpn)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == dict.fromkeys(range(BRANCH), 1)
    assert roi.grid == (4, 4)


def test_a_question_without_an_image_has_no_map(backbone, rpn):
    assert predict_prompt_roi(backbone, backbone.encode([QUESTIONS[2]]), rpn) == []
    with pytest.raises(InputError, match="no image"):
        predict_roi(backbone, [], "what ?", rpn)
    with pytest.raises(InputError, match="empty"):
        predict_roi(backbone, tiny_image(0), " ", rpn)

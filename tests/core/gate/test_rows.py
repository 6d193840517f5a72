"""Behind a gate the RPN's rows are those of the questions that pass, and the maps stay the same."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.rpn.model import RPN
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

#: With two images, without any, and of several sizes, which dynamic resolution makes other grids.
QUESTIONS = [
    Question("what color ?", (tiny_image(0, (120, 60)),)),
    Question("why ?"),
    Question("where is the red square in this image ?", (tiny_image(1), tiny_image(2, (60, 90)))),
    Question("what is in this image ?", (tiny_image(3, (168, 168)),)),
]
BACKBONES = {"llava": tiny_llava, "qwen2_5_vl": tiny_qwen2_5_vl, "gemma3": tiny_gemma3}
POLICY = BboxPolicy(threshold=1e-6, max_area_fraction=1.0)  # crops whatever it sees


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request):
    return BACKBONES[request.param]()


@pytest.fixture(scope="module")
def rpn(backbone):
    """With a gate whose probabilities lie well apart."""
    torch.manual_seed(0)
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2)
    gate = rpn.add_gate(backbone, GateConfig("decoder", {"n_layers": 1}))
    with torch.no_grad():
        logits = torch.tensor(needs(backbone, rpn)).logit()
        gate.head.bias.sub_(logits.median())
        for parameter in gate.head.parameters():
            parameter.div_(logits.std())
    return rpn


def needs(backbone, rpn):
    """The probabilities of the questions with an image."""
    state = prefill(backbone, QUESTIONS, rpn)
    rows = RPNProposer(rpn, POLICY, gate_threshold=1e-30).propose(state)
    return [row[0].gate for row in rows if row]


@contextmanager
def rows_of(module):
    """The number of rows of each call of a module."""
    rows = []
    hook = module.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        hook.remove()


@pytest.mark.parametrize("n_open", [1, 2])
@torch.no_grad()
def test_the_trunk_runs_for_the_questions_that_pass_alone(backbone, rpn, n_open):
    probabilities = needs(backbone, rpn)
    threshold = sorted(probabilities)[-n_open]
    gated = RPNProposer(rpn, POLICY, gate_threshold=threshold - 1e-6)
    state = prefill(backbone, QUESTIONS, rpn, max_padding=0.9)
    with rows_of(rpn.layers[0]) as rows:
        found = gated.maps(state)
    assert sum(rows) == 2 * n_open  # the prefix, and the question behind it
    always = RPNProposer(rpn, POLICY, gate_threshold=0)
    every = always.maps(prefill(backbone, QUESTIONS, rpn))
    alone = [roi for one in QUESTIONS for roi in always.maps(prefill(backbone, [one], rpn))]
    assert len(found) == len(every) == len(alone) == 4
    is_open = [probability >= threshold for probability in probabilities]
    of_images = [is_open[0], is_open[1], is_open[1], is_open[2]]
    for roi, batched, single, opened in zip(found, every, alone, of_images, strict=True):
        assert (roi is not None) == opened
        if roi is not None:
            for other in (batched, single):
                torch.testing.assert_close(
                    torch.tensor(roi.scores), torch.tensor(other.scores), rtol=1e-4, atol=1e-4
                )


def test_answers_equal_those_of_the_questions_alone(backbone, rpn):
    threshold = sorted(needs(backbone, rpn))[1] - 1e-6
    proposer = RPNProposer(rpn, POLICY, gate_threshold=threshold)
    options = {"max_new_tokens": 3}
    found = answer_batch(backbone, QUESTIONS, proposer, **options)
    alone = [answer_batch(backbone, [one], proposer, **options)[0] for one in QUESTIONS]
    assert [one.outcome for one in found] == [one.outcome for one in alone]
    assert [one.ids for one in found] == [one.ids for one in alone]
    assert {Outcome.OK, Outcome.NOT_NEEDED} <= {one.outcome for one in found}

"""Where the time of an answer goes, and what a first pass leaves to the second."""

from __future__ import annotations

import pytest
import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.adapter import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.rpn.model import RPN
from tests.scripted import GRID, IMAGES, QUESTIONS, Scripted
from tests.tiny import tiny_llava

pytestmark = pytest.mark.usefixtures("question_pass")

N_NEW = 6


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID)


def test_the_time_of_an_rpns_look_is_told_apart(backbone, question_pass):
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2)
    first = ["vision", "prefix", "proposal", *(["question"] * (not question_pass))]
    second = ["crop", "roi_prefill", "decode"]
    everything = BboxPolicy(threshold=1e-6, max_area_fraction=1.0)
    for policy in (everything, None):
        proposer = RPNProposer(rpn, policy)
        (found,) = answer_batch(backbone, [QUESTIONS["ok"]], proposer, max_new_tokens=2)
        assert bool(found.boxes) == (policy is everything)
        # A question that ran along is answered at once if there is nothing to look at.
        at_once = question_pass and not found.boxes
        assert list(found.seconds) == [*first, *(["decode"] if at_once else second)]
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_nothing_is_left_behind_when_the_plain_answer_is_interrupted(backbone, question_pass):
    hooks = [len(layer._forward_pre_hooks) for layer in backbone.layers]
    (plain,) = answer_batch(backbone, [QUESTIONS["ok"]], max_new_tokens=N_NEW)
    for name in ("ok", "nothing"):
        (found,) = answer_batch(backbone, [QUESTIONS[name]], Scripted(), max_new_tokens=N_NEW)
        assert bool(found.boxes) == (name == "ok")
    assert [len(layer._forward_pre_hooks) for layer in backbone.layers] == hooks
    (again,) = answer_batch(backbone, [QUESTIONS["ok"]], max_new_tokens=N_NEW)
    assert again.ids == plain.ids


def test_a_batch_without_a_region_takes_the_plain_pass_alone(backbone, question_pass):
    questions = [Question("none : how many ?", (image,)) for image in IMAGES]
    found = answer_batch(backbone, questions, Scripted(), max_new_tokens=N_NEW)
    plain = answer_batch(backbone, questions, max_new_tokens=N_NEW)
    assert [one.ids for one in found] == [one.ids for one in plain]
    assert all(("roi_prefill" in one.seconds) != question_pass for one in found)


def test_a_profiler_sees_every_stage(backbone, question_pass):
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        (found,) = answer_batch(backbone, [QUESTIONS["ok"]], RPNProposer(rpn), max_new_tokens=2)
    ranges = {
        event.key: event.count
        for event in profile.key_averages()
        if event.key.startswith("sdrpn.") and event.cpu_time_total > 0
    }
    expected = dict.fromkeys(found.seconds, 1)
    if not question_pass:  # the RPN reads the prefix, and scores once the question has run
        expected["proposal"] = 2
    assert ranges == {f"sdrpn.{stage}": count for stage, count in expected.items()}


def test_seconds_of_a_batch_are_shared(backbone):
    pair = answer_batch(backbone, [QUESTIONS["ok"], QUESTIONS["too many"]], max_new_tokens=1)
    assert pair[0].seconds == pair[1].seconds

"""The stages of an answer: short questions run along with their prefixes, longer ones apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.rpn.model import RPN
from tests.scripted import GRID, IMAGES, LONG_QUESTIONS, QUESTIONS, Scripted
from tests.tiny import tiny_image, tiny_llava

N_NEW = 6
#: Longest question, as a share of its prefix, that runs along with it.
SHORT = 1 / 8

by_length = pytest.mark.parametrize("is_short", [True, False], ids=["short", "long"])


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID)


@pytest.fixture(scope="module")
def rpn(backbone):
    return RPN.from_backbone(backbone, branch=2, n_layers=2)


def asked(name, is_short):
    return (QUESTIONS if is_short else LONG_QUESTIONS)[name]


@by_length
def test_stages_with_and_without_a_region(backbone, rpn, is_short):
    first = ["vision", "prefix", "proposal", *(["question"] * (not is_short))]
    second = ["crop", "roi_prefill", "decode"]
    everything = BboxPolicy(threshold=1e-6, max_area_fraction=1.0)
    for policy in (everything, None):
        proposer = RPNProposer(rpn, policy)
        (found,) = answer_batch(backbone, [asked("ok", is_short)], proposer, max_new_tokens=2)
        assert bool(found.boxes) == (policy is everything)
        # A question that ran along is answered at once if no region is found.
        at_once = is_short and not found.boxes
        assert list(found.seconds) == [*first, *(["decode"] if at_once else second)]
    assert all(seconds > 0 for seconds in found.seconds.values())


def stages_of(backbone, rpn, questions):
    answers = answer_batch(backbone, questions, RPNProposer(rpn), max_new_tokens=2)
    return [list(one.seconds) for one in answers]


def with_tokens_behind(backbone, question, n):
    """The question with words of one token each, so that ``n`` tokens follow its image."""
    (prompt,) = backbone.encode([replace(question, text="how")])
    n_words = n - (len(prompt) - prompt.prefix_length) + 1
    longer = replace(question, text=" ".join(["how"] * n_words))
    (prompt,) = backbone.encode([longer])
    assert len(prompt) - prompt.prefix_length == n
    return longer


@pytest.mark.parametrize("grid", [4, GRID, 2 * GRID])
def test_a_question_is_short_up_to_an_eighth_of_its_prefix(grid):
    backbone = tiny_llava(grid=grid)
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2)
    question = Question("how many ?", IMAGES[:1])
    (prompt,) = backbone.encode([question])
    most = int(SHORT * prompt.prefix_length)
    (short,) = stages_of(backbone, rpn, [with_tokens_behind(backbone, question, most)])
    (longer,) = stages_of(backbone, rpn, [with_tokens_behind(backbone, question, most + 1)])
    assert "question" not in short
    assert "question" in longer


def test_questions_of_a_batch_are_short_together_and_of_similar_length(backbone, rpn):
    """One pass for all: a long question takes the others along, as does padding above the limit."""
    one, other = (Question("how many ?", (tiny_image(seed),)) for seed in (0, 1))
    (prompt,) = backbone.encode([one])
    most = int(SHORT * prompt.prefix_length)
    pair = [with_tokens_behind(backbone, one, most - 1), with_tokens_behind(backbone, other, most)]
    assert not any("question" in stages for stages in stages_of(backbone, rpn, pair))
    pair[1] = with_tokens_behind(backbone, other, 2 * most)
    assert all("question" in stages for stages in stages_of(backbone, rpn, pair))
    three_images = Question("how many ?", tuple(map(tiny_image, range(3))))
    assert all("question" in stages for stages in stages_of(backbone, rpn, [one, three_images]))
    for alone in (one, three_images):
        assert "question" not in stages_of(backbone, rpn, [alone])[0]


def test_questions_that_share_a_prefix_run_apart_from_it(backbone, rpn):
    pair = [Question("how many ?", IMAGES[:1]), Question("read the sign", IMAGES[:1])]
    assert all("question" in stages for stages in stages_of(backbone, rpn, pair))
    assert all("question" not in stages_of(backbone, rpn, [one])[0] for one in pair)


@by_length
def test_an_interrupted_plain_answer_leaves_nothing_behind(backbone, is_short):
    question = asked("ok", is_short)
    hooks = [len(layer._forward_pre_hooks) for layer in backbone.layers]
    (plain,) = answer_batch(backbone, [question], max_new_tokens=N_NEW)
    for name in ("ok", "nothing"):
        (found,) = answer_batch(backbone, [asked(name, is_short)], Scripted(), max_new_tokens=N_NEW)
        assert bool(found.boxes) == (name == "ok")
    assert [len(layer._forward_pre_hooks) for layer in backbone.layers] == hooks
    (again,) = answer_batch(backbone, [question], max_new_tokens=N_NEW)
    assert again.ids == plain.ids


@by_length
def test_a_batch_without_a_region_takes_the_plain_pass_alone(backbone, is_short):
    text = asked("nothing", is_short).text
    questions = [Question(text, (image,)) for image in IMAGES]
    found = answer_batch(backbone, questions, Scripted(), max_new_tokens=N_NEW)
    plain = answer_batch(backbone, questions, max_new_tokens=N_NEW)
    assert [one.ids for one in found] == [one.ids for one in plain]
    assert all(("roi_prefill" in one.seconds) != is_short for one in found)


@by_length
def test_a_profiler_sees_every_stage(backbone, rpn, is_short):
    question = asked("ok", is_short)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        (found,) = answer_batch(backbone, [question], RPNProposer(rpn), max_new_tokens=2)
    ranges = {
        event.key: event.count
        for event in profile.key_averages()
        if event.key.startswith("sdrpn.") and event.cpu_time_total > 0
    }
    expected = dict.fromkeys(found.seconds, 1)
    if not is_short:  # the RPN reads the prefix, and scores once the question has run
        expected["proposal"] = 2
    assert ranges == {f"sdrpn.{stage}": count for stage, count in expected.items()}


def test_seconds_of_a_batch_are_shared(backbone):
    pair = answer_batch(backbone, [QUESTIONS["ok"], QUESTIONS["too many"]], max_new_tokens=1)
    assert pair[0].seconds == pair[1].seconds

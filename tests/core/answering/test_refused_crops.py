"""Crops and images that a backbone cannot encode."""

from __future__ import annotations

import re

import pytest

from sdrpn_core import RPN, Outcome
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.policy import Crop, CropPlan
from sdrpn_core.errors import ConfigError, ImageError
from sdrpn_llava.backbone import LlavaBackbone
from tests.tiny import tiny_image, tiny_llava

SMALLEST = 20


class Choosy(LlavaBackbone):
    """Refuses small crops, like a processor with a lower limit."""

    def preprocess_crop(self, image):
        if min(image.size) < SMALLEST:
            raise ImageError(f"{image.width}x{image.height} is too small")
        return super().preprocess_crop(image)


@pytest.fixture(scope="module")
def backbone():
    tiny = tiny_llava()
    return Choosy(tiny.model, tiny.processor)


def plan(*boxes):
    return CropPlan(Outcome.OK, tuple(Crop(box, (0, 0, 2, 2)) for box in boxes))


GOOD, BAD, WORSE = (0, 0, 40, 40), (0, 0, 40, 5), (0, 0, 3, 40)


def test_a_refused_crop_is_left_out_and_the_others_stay(backbone):
    image = tiny_image()
    results = encode_crops(
        backbone,
        [(image, plan(BAD, GOOD)), (image, plan(BAD, WORSE)), (image, plan(GOOD))],
    )
    plans, segments = zip(*results, strict=True)
    assert [[crop.box for crop in p.crops] for p in plans] == [[GOOD], [], [GOOD]]
    assert [len(row) for row in segments] == [1, 0, 1]
    assert (segments[0][0].features == segments[2][0].features).all()
    assert plans[0].outcome is Outcome.OK
    assert plans[1].outcome is Outcome.TOO_SMALL
    assert plans[1].reason == "the crop cannot be encoded: 3x40 is too small"


def test_the_answer_is_then_the_plain_one(backbone):
    class Refused(Proposer):
        def propose(self, state):
            return [[Proposal(plan(BAD))] for _ in state.prompts]

    question = Question("what color is the square ?", (tiny_image(),))
    (plain,) = answer_batch(backbone, [question], max_new_tokens=5)
    (found,) = answer_batch(backbone, [question], Refused(), max_new_tokens=5)
    assert (found.ids, found.n_visual_tokens) == (plain.ids, plain.n_visual_tokens)
    assert (found.outcome, found.boxes) == (Outcome.TOO_SMALL, [])


class Given(Proposer):
    """Proposes what it is told, whatever is asked."""

    def __init__(self, rows):
        self.rows = rows

    def propose(self, state):
        return self.rows


class GivenAtOnce(Given):
    """The same, asked within the pass that begins the plain answer."""

    def __init__(self, rows, reader):
        super().__init__(rows)
        self.reader = reader


OUTSIDE = (50, 50, 500, 500)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[Proposal(plan(GOOD, OUTSIDE))]], re.escape(str(OUTSIDE))),
        ([[Proposal(CropPlan(Outcome.OK))]], "the outcome is ok, and there is no crop"),
        ([[Proposal(CropPlan(Outcome.NO_ROI, plan(GOOD).crops))]], "they go with ok alone"),
        ([[Proposal([])]], "has planned a list"),
        ([[plan(GOOD)]], "one Proposal per image"),
        ([Proposal(plan(GOOD))], "one Proposal per image"),
        ([[]], "one Proposal per image"),
        ([], "one Proposal per image"),
        (None, "one Proposal per image"),
    ],
)
def test_what_cannot_be_cropped_is_refused_wherever_it_is_proposed(backbone, rows, message):
    questions = [Question("what color is the small square on the left ?", (tiny_image(),))]
    proposers = [Given(rows), GivenAtOnce(rows, RPN.from_backbone(backbone, branch=2, n_layers=1))]
    for proposer in proposers:
        for options in ({}, {"confidence_threshold": 1.0}):
            with pytest.raises(ConfigError, match=f"^{type(proposer).__name__}.*{message}"):
                answer_batch(backbone, questions, proposer, max_new_tokens=1, **options)

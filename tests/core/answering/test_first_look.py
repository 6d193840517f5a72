"""A coarse first look: the whole image with few tokens, the crop from the image as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sdrpn_core import RoIModel
from sdrpn_core.answering.answer import answer, answer_batch
from sdrpn_core.answering.prefix_store import PrefixStore
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.answering.token_layers import AnswerShape, TokenLayerCounter
from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.model import RPN
from sdrpn_core.testing.regions import FixedRegion
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_qwen2_5_vl import CELL, tiny_qwen2_5_vl

BRANCH, N_NEW, LOOK, BUDGET = 2, 4, 16, 9
LOOSE = {"threshold": 0.5, "max_area_fraction": 1.0, "max_crop_tokens": BUDGET}
POLICIES = {
    "bbox": BboxPolicy(**LOOSE, max_crops=9),
    "mask": MaskPolicy(**LOOSE, min_regions=1),
}
IMAGES = tiny_image(0, (300, 280)), tiny_image(1, (200, 420))
QUESTIONS = (
    Question("what color is the square ?", IMAGES[:1]),
    Question("how many ?", IMAGES[:1]),
    Question("which letter is near the dot ?", IMAGES),
    Question("how many ?"),
)


@pytest.fixture(scope="module")
def backbone():
    return tiny_qwen2_5_vl()


@pytest.fixture(scope="module")
def rpn(backbone):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RPN.from_backbone(backbone, branch=BRANCH, n_layers=3)


@pytest.fixture(params=POLICIES)
def model(request, backbone, rpn):
    return RoIModel(backbone, rpn, POLICIES[request.param], first_look_tokens=LOOK)


def facts(found):
    return [(one.ids, one.boxes, one.n_visual_tokens) for one in found]


def alone(model):
    return [
        model.answer_batch([question], max_new_tokens=N_NEW)[0]
        for question in QUESTIONS
    ]  # fmt: skip


def test_the_whole_image_is_coarse_and_the_crops_are_those_of_the_source(model):
    """The proposal is that of the model with fewer tokens; the crops are full ones."""
    coarse = model.backbone.with_visual_tokens(LOOK)
    for question, found in zip(QUESTIONS, alone(model), strict=True):
        proposals = RoIModel(coarse, model.rpn, model.policy).propose_batch([question])[0]
        assert found.boxes == [box for one in proposals for box in one.boxes]
        (prompt,) = coarse.encode([question])
        assert prompt.n_visual_tokens <= LOOK * question.n_images
        crops = [
            model.backbone.preprocess_native_crop(image.crop(box), BUDGET).geometry.grid
            for image, one in zip(question.images, found.proposals, strict=True)
            for box in one.boxes
        ]
        assert all(rows * columns <= BUDGET for rows, columns in crops)
        n_inserted = found.n_visual_tokens - prompt.n_visual_tokens
        whole = sum(rows * columns for rows, columns in crops)
        if isinstance(model.policy, MaskPolicy):
            assert 0 <= n_inserted <= whole, "the mask drops tokens"
        else:
            assert n_inserted == whole
    assert any(one.boxes for one in alone(model)), "no crop to look at"


def test_batches_streams_and_stores_give_the_same_answers(model):
    expected = facts(alone(model))
    store = PrefixStore()
    options = {"max_new_tokens": N_NEW}
    for kept in (None, store, store):
        assert facts(model.answer_batch(QUESTIONS, store=kept, **options)) == expected
        streamed = model.answer_stream(QUESTIONS, store=kept, batch_size=3, **options)
        assert facts(found for _, found in streamed) == expected
    assert store.hits > store.misses


def test_a_store_keeps_looks_of_different_resolution_apart(model):
    store = PrefixStore()
    (question, *_) = QUESTIONS
    for n_tokens in (LOOK, None, LOOK, 25, 25):
        wanted = replace(question, first_look_tokens=n_tokens)
        (expected,) = answer_batch(model.backbone, [wanted], model.proposer, max_new_tokens=N_NEW)
        (found,) = answer_batch(
            model.backbone, [wanted], model.proposer, store=store, max_new_tokens=N_NEW
        )
        assert facts([found]) == facts([expected])
    assert (store.misses, store.hits) == (3, 2)
    # Within one batch as well.
    mixed = [replace(question, first_look_tokens=n) for n in (LOOK, None, 25)]
    found = answer_batch(model.backbone, mixed, model.proposer, max_new_tokens=N_NEW)
    assert [one.proposals[0].roi.grid for one in found] == [(3, 4), (7, 8), (4, 5)]


def test_who_says_how_coarse(model):
    """A call outranks a question, and a question the model."""
    (question, *_) = QUESTIONS

    def grid(asked=question, **options):
        (found,) = model.answer_batch([asked], max_new_tokens=1, **options)
        return found.proposals[0].geometry.grid

    fine = replace(question, first_look_tokens=36)
    assert grid() == (3, 4)
    assert grid(fine) == (5, 6)
    assert grid(fine, first_look_tokens=25) == (4, 5)
    assert model.answer(IMAGES[0], "how many ?", first_look_tokens=25, max_new_tokens=1).proposals[
        0
    ].geometry.grid == (4, 5)
    assert model.propose(IMAGES[0], "how many ?")[0].roi.grid == (3, 4)
    assert model.with_policy("bbox").first_look_tokens == LOOK
    prepared = Preprocessor(model.backbone).prepared(fine)
    assert prepared.inputs[0].geometry.grid == (5, 6)
    assert grid(prepared) == (5, 6)
    assert grid(prepared, first_look_tokens=25) == (4, 5), "what was prepared is too fine"


def test_a_plain_answer_may_be_a_coarse_look(backbone):
    found = answer(backbone, IMAGES, "how many ?", first_look_tokens=LOOK, max_new_tokens=N_NEW)
    limited = backbone.with_visual_tokens(LOOK)
    expected = answer(limited, IMAGES, "how many ?", max_new_tokens=N_NEW)
    assert facts([found]) == facts([expected])


@pytest.mark.parametrize("look", [None, LOOK], ids=["full first look", "coarse first look"])
@pytest.mark.parametrize("text", ["how many ?", "how many ?" + " and the word above" * 8])
def test_what_is_counted_is_what_the_lengths_say(backbone, rpn, look, text):
    """Token-layers of the decoder and of the RPN, to the last one."""

    class Looks(RPNProposer):
        """Asks the RPN, and crops the middle."""

        def propose(self, state):
            super().propose(state)
            return FixedRegion(max_tokens=BUDGET).propose(state)

    question = Question(text, IMAGES[:1], first_look_tokens=look)
    (prompt,) = backbone.encode([question])
    options = {"max_new_tokens": N_NEW, "min_new_tokens": N_NEW}
    with TokenLayerCounter(backbone, rpn) as work:
        (found,) = answer_batch(backbone, [question], Looks(rpn), **options)
    rows, columns = (side // CELL for side in IMAGES[0].size[::-1])
    crop_tokens = found.n_visual_tokens - prompt.n_visual_tokens
    assert 0 < crop_tokens <= BUDGET < rows * columns / 4
    framing = 2  # a vision start and a vision end token
    n_question = len(prompt) - prompt.prefix_length
    shape = AnswerShape(prompt.prefix_length, n_question, crop_tokens + framing, N_NEW - 1)
    is_short = n_question <= prompt.prefix_length / 8
    counted = (
        shape.in_one_pass(backbone.n_layers) if is_short else shape.floor(backbone.n_layers, BRANCH)
    )
    assert work.token_layers == counted
    assert work.rpn_token_layers == shape.rpn(len(rpn.layers))


def test_budgets_are_checked_before_anything_is_answered(backbone, rpn):
    policy = POLICIES["bbox"]
    for make in (
        lambda: RoIModel(backbone, rpn, policy, first_look_tokens=0),
        lambda: Question("how many ?", IMAGES, first_look_tokens=0),
        lambda: answer_batch(backbone, [], first_look_tokens=0),
        lambda: answer_stream(backbone, [], first_look_tokens=0),
    ):
        with pytest.raises(
            ConfigError, match="first_look_tokens must be a whole number of at least 1, not 0"
        ):
            make()
    llava = tiny_llava()
    own = RPN.from_backbone(llava, branch=BRANCH, n_layers=2)
    free = BboxPolicy()
    crops, look = r"max_crop_tokens=9 cannot be set", r"first_look_tokens=9 cannot be set"
    for make, message in (
        (lambda: RoIModel(llava, own, policy), crops),
        (lambda: RoIModel(llava, own, free, first_look_tokens=9), look),
        (lambda: RoIModel(llava, own, free).with_policy(policy_options={"max_crop_tokens": 9}),
         crops),
        (lambda: answer_batch(llava, [], RPNProposer(own, policy)), crops),
        (lambda: answer_stream(llava, [], RPNProposer(own, policy)), crops),
        (lambda: answer_stream(llava, [], first_look_tokens=9), look),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"resolution is fixed, .* {message}"):
            make()

"""First attempts that go wrong: one line that says what to write, before anything runs."""

from __future__ import annotations

import numpy as np
import pytest

from sdrpn_core import RPN, PrefixStore, Question, Record, RoIModel, RPNProposer
from sdrpn_core.answering.answer import answer, answer_batch
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.gate.config import GateConfig
from tests.tiny import tiny_image, tiny_llava

TEXT = "what color is the square ?"


@pytest.fixture(scope="module")
def model():
    backbone = tiny_llava()
    return RoIModel(backbone, RPN.from_backbone(backbone, branch=2, n_layers=1), BboxPolicy())


@pytest.fixture
def untouched(model):
    """Fails if the decoder runs."""

    def ran(*args):
        raise AssertionError("the decoder ran")

    handle = model.backbone.decoder.register_forward_pre_hook(ran)
    yield
    handle.remove()


def calls(model, questions, proposer=None, **options):
    """Every way to answer a batch."""
    backbone = model.backbone
    yield lambda: answer_batch(backbone, questions, proposer, **options)
    yield lambda: list(answer_stream(backbone, questions, proposer, **options))
    if proposer is None:
        yield lambda: model.answer_batch(questions, **options)
        yield lambda: list(model.answer_stream(questions, **options))


def refused(model, kind, message, questions, proposer=None, **options):
    for call in calls(model, questions, proposer, **options):
        with pytest.raises(kind) as error:
            call()
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence_threshold": "0.9"}, "above 0, at most 1, not '0.9'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, not 0"),
        ({"max_new_tokens": "8"}, "at least 1, not '8'"),
        ({"max_new_tokens": None}, "at least 1, not None"),
        ({"max_padding": "0.2"}, "less than 1, not '0.2'"),
        ({"first_look_tokens": "64"}, "first_look_tokens must be at least 1, not '64'"),
        ({"store": True}, "store must be a PrefixStore, not bool: write PrefixStore()"),
        ({"rpn": 1}, "rpn is no argument of this call: give it to the proposer, RPNProposer(rpn"),
        ({"policy": "mask"}, "policy is no argument of this call"),
        ({"gate_threshold": 0.5}, "or to the RoIModel"),
        ({"max_tokens": 8}, "no argument 'max_tokens': did you mean 'max_new_tokens'?"),
        ({"zzz": 8}, "generate() has no argument 'zzz': see GenerationConfig"),
        ({"early_stopping": 8}, "generate() refuses its options: `early_stopping` must be"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("untouched")
def test_an_argument_that_cannot_be_used(model, options, message):
    refused(model, ConfigError, message, [Question(TEXT, (tiny_image(),))], **options)


@pytest.mark.usefixtures("untouched")
def test_a_batch_size_that_is_none(model):
    with pytest.raises(ConfigError, match=r"the batch size .* at least 1, not '8'$"):
        answer_stream(model.backbone, [], batch_size="8")


@pytest.mark.usefixtures("untouched")
def test_what_is_no_proposer(model):
    for wrong in (model.rpn, model, model.policy, "rpn"):
        message = f"must be a Proposer, not {type(wrong).__name__}: write RPNProposer(rpn), or of a"
        refused(model, ConfigError, message, [Question(TEXT, (tiny_image(),))], wrong)
    with pytest.raises(ConfigError, match="answer takes an rpn and a policy; give a proposer to"):
        answer(model.backbone, tiny_image(), TEXT, proposer=model.proposer)


@pytest.mark.parametrize(
    "wrong",
    [(tiny_image(), TEXT), Record("1", (tiny_image(),), TEXT), TEXT, None],
    ids=lambda wrong: type(wrong).__name__,
)
@pytest.mark.usefixtures("untouched")
def test_what_is_no_question(model, wrong):
    message = f"must be a Question, not {type(wrong).__name__}: write Question.about(image, text)"
    refused(model, InputError, f"question 0 {message}", [wrong])
    questions = [Question(TEXT, (tiny_image(),)), wrong]
    with pytest.raises(InputError) as error:
        model.propose_batch(questions)
    assert f"question 1 {message}" in str(error.value)


@pytest.mark.usefixtures("untouched")
def test_a_question_alone(model):
    message = "a list of questions is expected, not a Question: write [question]"
    refused(model, InputError, message, Question(TEXT, (tiny_image(),)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["a.png"], "image 0 of a Question must be opened, not str"),
        ((tiny_image(), b"\x89PNG"), "image 1 of a Question must be opened, not bytes"),
        (tiny_image(), "the images of a Question must be a tuple, not Image"),
        ("a.png", "the images of a Question must be a tuple, not str"),
    ],
)
def test_images_of_a_question_are_opened(images, message):
    with pytest.raises(InputError) as error:
        Question(TEXT, images)
    assert str(error.value) == f"{message}: write Question.about(image, text)"


def test_a_list_of_images_is_as_good_as_a_tuple():
    image = tiny_image()
    assert Question(TEXT, [image]) == Question(TEXT, (image,))


@pytest.mark.parametrize("threshold", ["0.5", None, 1.5])
def test_a_gates_threshold_is_a_number(threshold):
    with pytest.raises(ConfigError, match=f"between 0 and 1, not {threshold!r}"):
        GateConfig(threshold=threshold)


def test_numbers_of_numpy_and_generators_are_as_good(model):
    questions = [Question(TEXT, (tiny_image(),))]
    options = {"max_padding": np.float32(0.2), "confidence_threshold": np.float32(0.5)}
    (one,) = answer_batch(
        model.backbone,
        (question for question in questions),
        RPNProposer(model.rpn),
        max_new_tokens=np.int64(2),
        store=PrefixStore(),
        tokenizer=model.backbone.tokenizer,
        stop_strings=None,
        **options,
    )
    assert one.confidence is not None
    assert answer_batch(model.backbone, iter(())) == []

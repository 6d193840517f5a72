"""First attempts that go wrong: one line that says what to write, before anything runs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ExifTags, Image
from transformers import TextIteratorStreamer, TextStreamer

from sdrpn_core import (
    RPN,
    AttentionProposer,
    PrefixStore,
    Question,
    Record,
    RoIModel,
    RPNProposer,
    find_heads,
    generate,
    predict_roi,
    prompt_block,
)
from sdrpn_core.answering.answer import answer, answer_batch
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.errors import ConfigError, InputError, UnknownNameError
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
        (
            {"first_look_tokens": "64"},
            "first_look_tokens must be a whole number of at least 1, not '64'",
        ),
        ({"store": True}, "store must be a PrefixStore, not bool: write PrefixStore()"),
        ({"rpn": 1}, "rpn is no argument of this call: give it to the proposer, RPNProposer(rpn"),
        ({"policy": "mask"}, "policy is no argument of this call"),
        ({"gate_threshold": 0.5}, "or to the RoIModel"),
        ({"max_tokens": 8}, "no argument 'max_tokens': did you mean 'max_new_tokens'?"),
        ({"zzz": 8}, "generate() has no argument 'zzz': see GenerationConfig"),
        ({"early_stopping": 8}, "generate() refuses its options: `early_stopping` must be"),
        ({"streamer": print}, "streamer must be an object with the methods put and end, such as"),
        ({"streamer": TextStreamer}, "such as TextStreamer(backbone.tokenizer), not <class"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("untouched")
def test_an_argument_that_cannot_be_used_is_refused(model, options, message):
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


@pytest.mark.parametrize("rpn", ["runs/rpn", None, 3])
@pytest.mark.usefixtures("untouched")
def test_what_is_no_rpn(model, rpn):
    message = (
        f"the RPN must be an RPN, not {type(rpn).__name__}: write RPN.from_pretrained(path, "
        "backbone=backbone), or load both with RoIModel.from_pretrained(path)"
    )
    makers = [
        lambda: RPNProposer(rpn),
        lambda: RoIModel(model.backbone, rpn, BboxPolicy()),
        lambda: predict_roi(model.backbone, tiny_image(), TEXT, rpn),
    ]
    if rpn is not None:
        makers.append(lambda: answer(model.backbone, tiny_image(), TEXT, rpn=rpn))
    for make in makers:
        with pytest.raises(ConfigError) as error:
            make()
        assert str(error.value) == message


def test_a_model_is_no_rpn(model):
    with pytest.raises(ConfigError, match=r"not RoIModel: give its rpn, or call its own methods"):
        answer(model.backbone, tiny_image(), TEXT, rpn=model)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda model: model, "not RoIModel: call its own methods, such as model.answer(image, q"),
        (lambda model: model.backbone.model, "Generation: write load_backbone(model)"),
        (lambda model: "a/model", "not str: write load_backbone(model)"),
        (lambda model: None, "not NoneType: load_backbone gives one"),
    ],
)
@pytest.mark.usefixtures("untouched")
def test_what_is_no_backbone(model, wrong, message):
    given, questions = wrong(model), [Question(TEXT, (tiny_image(),))]
    for call in (
        lambda: answer(given, tiny_image(), TEXT),
        lambda: answer(given, tiny_image(), TEXT, rpn=model.rpn),
        lambda: answer_batch(given, questions),
        lambda: answer_stream(given, questions),
        lambda: predict_roi(given, tiny_image(), TEXT, model.rpn),
        lambda: find_heads(given, []),
        lambda: prompt_block(given, model.backbone.encode(questions)),
        lambda: generate(given, None, max_new_tokens=2),
        lambda: RoIModel(given, model.rpn, model.policy),
    ):
        with pytest.raises(ConfigError) as error:
            call()
        assert str(error.value).startswith("the backbone must be a Backbone, not ")
        assert message in str(error.value)


def test_a_policy_may_be_named(model):
    assert RPNProposer(model.rpn, "mask").policy == MaskPolicy()
    assert RoIModel(model.backbone, model.rpn, "mask").policy == MaskPolicy()
    assert AttentionProposer(None, "mask", max_new_tokens=2).policy == MaskPolicy()
    options = {"rpn": model.rpn, "max_new_tokens": 1}
    by_name, made = (
        answer(model.backbone, tiny_image(), TEXT, policy=policy, **options)
        for policy in ("mask", MaskPolicy())
    )
    assert (by_name.ids, by_name.boxes) == (made.ids, made.boxes)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (BboxPolicy, "the policy must be made, and BboxPolicy is a class: write BboxPolicy()"),
        (3, "unknown crop policy 3 (known: bbox, mask"),
        ("bbx", "unknown crop policy 'bbx': did you mean 'bbox'?"),
    ],
)
@pytest.mark.usefixtures("untouched")
def test_what_is_no_policy(model, policy, message):
    for make in (
        lambda: answer(model.backbone, tiny_image(), TEXT, rpn=model.rpn, policy=policy),
        lambda: RPNProposer(model.rpn, policy),
        lambda: RoIModel(model.backbone, model.rpn, policy),
        lambda: model.with_policy(policy),
        lambda: AttentionProposer(None, policy, max_new_tokens=2),
    ):
        with pytest.raises((ConfigError, UnknownNameError)) as error:
            make()
        assert message in str(error.value)


def test_a_policy_needs_an_rpn(model):
    with pytest.raises(ConfigError, match=r"a policy crops from the maps of an RPN: give rpn, too"):
        answer(model.backbone, tiny_image(), TEXT, policy="bbox")


def test_policy_options_that_are_no_mapping(model):
    with pytest.raises(ConfigError, match=r"such as \{'threshold': 0.2\}, not \[1\]$"):
        model.with_policy(policy_options=[1])


@pytest.mark.parametrize("streamer", [TextStreamer, TextIteratorStreamer])
@pytest.mark.usefixtures("untouched")
def test_a_text_streamer_shows_one_answer(model, streamer):
    options = {"streamer": streamer(model.backbone.tokenizer), "max_new_tokens": 2}
    questions = [Question(TEXT, (tiny_image(),))] * 2
    name = streamer.__name__
    for proposer in (None, model.proposer):
        refused(
            model,
            ConfigError,
            f"a {name} shows one answer, and up to ",
            questions,
            proposer,
            **options,
        )


def test_a_text_streamer_in_a_stream_of_single_questions(model, capsys):
    questions = [Question(TEXT, (tiny_image(),))] * 2
    streamer = TextStreamer(model.backbone.tokenizer)
    found = answer_stream(
        model.backbone, questions, batch_size=1, streamer=streamer, max_new_tokens=2
    )
    for _, one in found:
        assert one.text.split()[0] in capsys.readouterr().out


@pytest.mark.parametrize("questions", [None, 3])
@pytest.mark.usefixtures("untouched")
def test_what_is_no_list_of_questions(model, questions):
    message = f"a list of questions is expected, not {type(questions).__name__}: write [question]"
    refused(model, InputError, message, questions)


@pytest.mark.usefixtures("untouched")
def test_what_cannot_be_encoded_or_generated(model):
    backbone, question = model.backbone, Question(TEXT, (tiny_image(),))
    prompts = backbone.encode([question])
    block = prompt_block(backbone, prompts)
    for call, message in (
        (lambda: backbone.encode(question), "not a Question: write [question]"),
        (lambda: backbone.encode([(tiny_image(), TEXT)]), "question 0 must be a Question, not tup"),
        (lambda: prompt_block(backbone, prompts[0]), "not a Prompt: write [prompt]"),
        (lambda: prompt_block(backbone, None), "not NoneType: write backbone.encode(questions)"),
        (lambda: prompt_block(backbone, [question]), "prompt 0 must be a Prompt, not Question"),
        (lambda: generate(backbone, prompts, max_new_tokens=2), "a Block, not list: write prompt_"),
        (lambda: generate(backbone, block, max_new_tokens=2.5), "of at least 1, not 2.5"),
        (lambda: generate(backbone, block, max_new_tokens=2, foo=2), "has no argument 'foo'"),
        (lambda: generate(backbone, block, max_new_tokens=2, num_beams=2), "cannot be used here"),
        (lambda: generate(backbone, block, max_new_tokens=2, streamer=print), "put and end"),
    ):
        with pytest.raises((ConfigError, InputError)) as error:
            call()
        assert message in str(error.value)


@pytest.mark.usefixtures("untouched")
def test_a_question_alone(model):
    message = "a list of questions is expected, not a Question: write [question]"
    refused(model, InputError, message, Question(TEXT, (tiny_image(),)))


def photo(**options) -> Image.Image:
    """As ``Image.open`` gives it, of a file that was saved with these options."""
    file = io.BytesIO()
    tiny_image().save(file, format="PNG", **options)
    return Image.open(file)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["a.png"], "image 0 of a Question must be opened, not str"),
        (
            [tiny_image(), tiny_image().convert("L")],
            "image 1 of a Question must be upright RGB, and its mode is L",
        ),
        (
            [tiny_image().convert("RGBA")],
            "image 0 of a Question must be upright RGB, and its mode is RGBA",
        ),
        (
            [photo(exif=turned())],
            "image 0 of a Question must be upright RGB, and its EXIF orientation is 6",
        ),
        (
            [photo(transparency=(0, 0, 0))],
            "image 0 of a Question must be upright RGB, and it has a transparent color",
        ),
        ((tiny_image(), b"\x89PNG"), "image 1 of a Question must be opened, not bytes"),
        (tiny_image(), "the images of a Question must be a tuple, not Image"),
        ("a.png", "the images of a Question must be a tuple, not str"),
    ],
)
def test_images_of_a_question_are_opened(images, message):
    with pytest.raises(InputError) as error:
        Question(TEXT, images)
    assert str(error.value) == f"{message}: write Question.about(image, text)"


def test_an_opened_file_is_as_good_as_its_pixels():
    assert Question(TEXT, [photo()]).images[0].tobytes() == tiny_image().tobytes()


def test_a_list_of_images_is_as_good_as_a_tuple():
    image = tiny_image()
    assert Question(TEXT, [image]) == Question(TEXT, (image,))


@pytest.mark.parametrize("threshold", ["0.5", None, 1.5])
def test_a_gates_threshold_is_a_number(threshold):
    with pytest.raises(ConfigError, match=f"between 0 and 1, not {threshold!r}"):
        GateConfig(threshold=threshold)


@pytest.mark.parametrize("limit", ["x", None, -1, float("nan")])
def test_a_stores_limit_is_a_number(limit):
    with pytest.raises(
        ConfigError, match=f"max_bytes must be a number of 0 or more, not {limit!r}"
    ):
        PrefixStore(limit)


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

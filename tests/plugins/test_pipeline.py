"""The pipeline is called as transformers' pipelines are, and answers as ``answer_batch`` does."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset

from sdrpn_core import RPN, ConfigError, ImageError, InputError, Question, load_backbone
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_pipeline import TASK, RoIImageTextToTextPipeline
from tests.tiny import tiny_image, write_tiny_llava

POLICY = {"threshold": 0.5, "max_crops": 9, "max_area_fraction": 1.0}
N_TOKENS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipeline")
    write_tiny_llava(root / "tiny", grid=8)
    rpn = RPN.from_backbone(
        load_backbone(root / "tiny"), branch=3, n_layers=2, policy_options=POLICY
    )
    rpn.save_pretrained(root / "rpn")
    for index in range(1, 5):
        tiny_image(index).save(root / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def ask(folder):
    return pipeline(
        TASK,
        model=str(folder / "tiny"),
        rpn=folder / "rpn",
        device="cpu",
        dtype="float32",
        max_new_tokens=N_TOKENS,
    )


@pytest.fixture(scope="module")
def questions():
    return [
        Question("which color is the circle ?", (tiny_image(1),)),
        Question("how many dots ?", (tiny_image(2, (60, 200)), tiny_image(3))),
        Question("what is the name of the large sign under the square ?", (tiny_image(4),)),
    ]


@pytest.fixture(scope="module")
def expected(folder, questions):
    """What sdrpn's own function says: ``(text, outcome, boxes)`` per question."""
    backbone = load_backbone(folder / "tiny")
    rpn = RPN.from_pretrained(folder / "rpn", backbone=backbone)
    answers = answer_batch(backbone, questions, RPNProposer(rpn), max_new_tokens=N_TOKENS)
    assert any(one.boxes for one in answers)
    return [(one.text, str(one.outcome), one.boxes) for one in answers]


@pytest.fixture(scope="module")
def inputs(questions):
    return [{"images": list(one.images), "text": one.text} for one in questions]


def facts(results):
    return [(one["generated_text"], one["outcome"], one["boxes"]) for one in results]


def chat(question):
    parts = [{"type": "image", "image": image} for image in question.images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question.text}]}]


def test_importing_the_package_registers_the_task(ask):
    assert type(ask) is RoIImageTextToTextPipeline
    assert TASK in PIPELINE_REGISTRY.get_supported_tasks()
    code = (
        "import sdrpn_pipeline, transformers.pipelines as p; "
        f"print(p.check_task({TASK!r})[1]['impl'].__name__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "RoIImageTextToTextPipeline\n", result.stderr


def test_the_processor_is_loaded(ask):
    assert ask.processor is ask.roi_model.backbone.processor
    assert type(ask.processor).__name__ == "LlavaProcessor"
    assert ask.model is ask.roi_model.backbone.model


def test_one_question(ask, questions, expected):
    image = questions[0].images[0]
    result = ask(image, questions[0].text)
    assert facts([result]) == expected[:1]
    assert result["input_text"] == questions[0].text
    assert facts([ask(images=image, text=questions[0].text)]) == expected[:1]
    assert facts([ask({"image": image, "question": questions[0].text})]) == expected[:1]
    overlay = result["answer"].overlay(image)
    assert not np.array_equal(np.asarray(overlay.resize(image.size)), np.asarray(image))


def test_one_question_about_several_images(ask, questions, expected):
    assert facts([ask(list(questions[1].images), questions[1].text)]) == expected[1:2]


def test_images_by_path_and_by_bytes(ask, folder, questions, expected):
    path = folder / "1.png"
    for source in (path, str(path), path.read_bytes()):
        assert facts([ask(source, questions[0].text)]) == expected[:1]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_list_in_batches(ask, inputs, expected, batch_size):
    results = ask(inputs, batch_size=batch_size)
    assert isinstance(results, list)
    assert facts(results) == expected


def test_a_list_of_questions_with_a_list_of_images(ask, questions, expected):
    images = [list(one.images) for one in questions]
    texts = [one.text for one in questions]
    assert facts(ask(images, texts, batch_size=2)) == expected
    assert facts(ask(tuple(images), tuple(texts))) == expected


def test_a_generator_is_read_as_answers_are_needed(ask, inputs, expected):
    read = []

    def source():
        for one in inputs * 4:
            read.append(one)
            yield one

    results = ask(source())
    first = next(results)
    assert facts([first]) == expected[:1]
    assert len(read) < 2 * len(inputs)
    assert facts([first, *results]) == expected * 4


def test_an_iterable_that_is_no_list(ask, inputs, expected):
    assert facts(ask(iter(inputs), batch_size=2)) == expected


def test_a_data_set_of_torch(ask, inputs, expected):
    class Data(Dataset):
        def __len__(self):
            return len(inputs)

        def __getitem__(self, index):
            return {"input": inputs[index]}

    assert facts(ask(KeyDataset(Data(), "input"), batch_size=2)) == expected


def test_chats(ask, questions, expected):
    assert facts([ask(chat(questions[1]))]) == expected[1:2]
    assert facts(ask([chat(one) for one in questions], batch_size=3)) == expected
    assert facts(ask(chat(one) for one in questions)) == expected
    # As the pipeline of transformers for images and text is called.
    assert facts([ask(text=chat(questions[1]))]) == expected[1:2]
    assert facts(ask(text=[chat(one) for one in questions])) == expected


def test_nothing_gives_nothing(ask):
    assert ask([]) == ask([], []) == ask(()) == []
    assert list(ask(iter([]))) == []


def test_options_of_a_call_outweigh_those_of_the_pipeline(ask, questions, expected):
    image, text = questions[0].images[0], questions[0].text
    for options in ({"max_new_tokens": 1}, {"generate_kwargs": {"max_new_tokens": 1}}):
        assert len(ask(image, text, **options)["answer"].ids) == 1
    assert facts([ask(image, text)]) == expected[:1]
    with pytest.raises(ConfigError, match="max_new_tokens is given twice"):
        ask(image, text, max_new_tokens=1, generate_kwargs={"max_new_tokens": 2})
    with pytest.raises(ConfigError, match="num_return_sequences"):
        ask(image, text, num_return_sequences=2)


def test_a_loaded_model_and_another_policy(folder, questions):
    model = AutoModelForImageTextToText.from_pretrained(folder / "tiny", dtype=torch.float32)
    options = {"rpn": folder / "rpn", "device": "cpu", "policy_options": {"threshold": 0.9999}}
    image, text = questions[0].images[0], questions[0].text
    ask = pipeline(TASK, model=model, **options)  # the processor is found by the model's name
    assert ask(image, text, max_new_tokens=1)["outcome"] == "no_roi"
    processor = AutoProcessor.from_pretrained(folder / "tiny")
    given = pipeline(TASK, model=model, processor=processor, **options)
    assert given.processor is processor


def test_sure_answers_stay(ask, questions, inputs):
    plain = answer_batch(ask.roi_model.backbone, questions, max_new_tokens=N_TOKENS)
    for found in (ask(inputs, confidence_threshold=1e-9), [*map(one_sure(ask), inputs)]):
        assert [one["generated_text"] for one in found] == [one.text for one in plain]
        assert {one["outcome"] for one in found} == {"not_needed"}


def one_sure(ask):
    return lambda one: ask(one["images"], one["text"], confidence_threshold=1e-9)


def test_a_first_look_reaches_the_model(folder):
    options = {"rpn": folder / "rpn", "device": "cpu", "first_look_tokens": 4}
    with pytest.raises(ConfigError, match="first_look_tokens=4 cannot be set"):
        pipeline(TASK, model=str(folder / "tiny"), **options)


def test_a_gates_threshold_reaches_the_model(folder):
    options = {"rpn": folder / "rpn", "device": "cpu", "gate_threshold": 0.5}
    with pytest.raises(ConfigError, match="this RPN has no gate"):
        pipeline(TASK, model=str(folder / "tiny"), **options)


def test_what_is_saved_loads_again(ask, questions, expected, tmp_path):
    ask.save_pretrained(tmp_path / "saved")
    again = pipeline(
        TASK, model=str(tmp_path / "saved"), rpn=tmp_path / "saved" / "rpn", dtype="float32"
    )
    image, text = questions[0].images[0], questions[0].text
    assert facts([again(image, text, max_new_tokens=N_TOKENS)]) == expected[:1]


IMAGE = tiny_image(1)
CHAT = {"role": "user", "content": [{"type": "image", "image": IMAGE}]}
BAD = {
    "no question": ((IMAGE,), InputError, "there is no question"),
    "nothing": ((), InputError, "there is no question"),
    "no image": ((None, "what ?"), InputError, "the question has no image"),
    "empty question": ((IMAGE, " "), InputError, "the question is empty"),
    "no image for several": ((None, ["what ?"]), InputError, "the question has no image"),
    "no images": (([], "what ?"), InputError, "the question has no image"),
    "missing file": (("none.png", "what ?"), ImageError, "no such file"),
    "one image, two questions": ((IMAGE, ["a", "b"]), InputError, "several questions are a list"),
    "one of two images": (([IMAGE], ["a", "b"]), InputError, "2 questions, but images for 1"),
    "unknown keys": (({"picture": IMAGE},), InputError, "this one has picture"),
    "in a list": (([{"images": IMAGE, "text": "what ?"}, 7],), InputError, "input 1: an input is"),
    "a number": ((7,), InputError, "not int"),
    "chat without a text": (([CHAT],), InputError, "1 images and 0 texts"),
    "chat of two": (([CHAT, CHAT],), InputError, "this chat has 2 messages"),
    "chat of text": (([{"role": "user", "content": "hi"}],), InputError, "has no image"),
    "chat with a sound": (
        ([{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}],),
        InputError,
        "a text or an image",
    ),
}


@pytest.mark.parametrize(("args", "kind", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(ask, args, kind, message):
    with pytest.raises(kind) as error:
        ask(*args)
    assert message in str(error.value)


def test_a_pipeline_needs_an_rpn(folder):
    with pytest.raises(ConfigError, match="needs an RPN: give rpn"):
        pipeline(TASK, model=str(folder / "tiny"))

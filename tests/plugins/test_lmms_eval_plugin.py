"""What sdrpn's model in lmms-eval does with arguments, settings and requests; without lmms-eval.

`make peers` runs the model itself, in an environment that has lmms-eval: see ``tests/peers``.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from PIL import Image

import sdrpn_lmms_eval
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.data.images import open_image
from sdrpn_core.data.read import read_records
from sdrpn_core.errors import ConfigError, InputError, UnknownNameError
from sdrpn_glyphs import backbone_dir, rpn_dir
from sdrpn_lmms_eval.generation import DEFAULT_MAX_NEW_TOKENS, Generation
from sdrpn_lmms_eval.questions import chat_question, simple_question
from sdrpn_lmms_eval.session import ModelArguments, Session

RED, BLUE = (Image.new("RGB", (8, 6), color) for color in ("red", "blue"))
TASK = sdrpn_lmms_eval.TASKS / "sdrpn_glyphs"


def image(picture):
    return {"type": "image", "url": picture}


def text(words):
    return {"type": "text", "text": words}


def user(*content):
    return {"role": "user", "content": list(content)}


def test_the_entry_point_leads_to_the_manifest():
    (found,) = [ep for ep in entry_points(group="lmms_eval.models") if ep.name == "sdrpn"]
    assert found.value == "sdrpn_lmms_eval.manifest:manifest"
    assert callable(found.load())


def test_several_images_come_first_and_in_order():
    for found in (
        simple_question("what ?", [RED, BLUE]),
        chat_question([user(image(RED), image(BLUE), text("what ?"))]),
    ):
        assert found.text == "what ?"
        assert [one.getpixel((0, 0)) for one in found.images] == [(255, 0, 0), (0, 0, 255)]


def test_text_alone_is_a_question():
    assert simple_question("what ?", None).images == simple_question("what ?", []).images == ()
    assert chat_question([{"role": "user", "content": "what ?"}]).text == "what ?"
    assert chat_question([user(text("what "), text("is it ?"))]).text == "what is it ?"


SYSTEM = {"role": "system", "content": [text("be brief")]}
ASSISTANT = {"role": "assistant", "content": [text("red")]}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([SYSTEM, user(text("what ?"))], "turns system, user, but sdrpn asks one user turn"),
        ([user(text("a ?")), ASSISTANT, user(text("b ?"))], "turns user, assistant, user"),
        ([], "turns none"),
        ([user(text("what ?"), image(RED))], "an image behind text"),
        ([user(image(RED), text("and"), image(BLUE))], "an image behind text"),
        ([user({"type": "video", "url": "a.mp4"}, text("what ?"))], "holds video, but"),
        ([user({"type": "audio", "url": "a.wav"}, text("what ?"))], "holds audio, but"),
        ([user(image("a.png"), text("what ?"))], "a visual of type 'str'"),
    ],
)
def test_what_a_chat_holds_and_is_not_served_is_refused_in_one_line(messages, message):
    with pytest.raises(InputError, match=message) as refused:
        chat_question(messages)
    assert "\n" not in str(refused.value)


def test_a_simple_request_with_a_video_is_refused():
    with pytest.raises(InputError, match="a visual of type 'str', but sdrpn sees images only"):
        simple_question("what ?", ["clip.mp4"])


def test_greedy_is_what_a_temperature_of_0_means():
    for settings in (
        {},
        {"temperature": 0.0, "do_sample": False, "top_p": 1.0, "num_beams": 1},
        {"temperature": 0, "do_sample": True},
        {"do_sample": False, "temperature": 0.7, "top_k": None},
        {"top_p": None, "image_aspect_ratio": "original"},
    ):
        found = Generation.parse(settings)
        assert found.options == {"do_sample": False}
        assert found.max_new_tokens == DEFAULT_MAX_NEW_TOKENS


def test_sampling_keeps_its_settings():
    given = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 5, "repetition_penalty": 1.1}
    before = dict(given)
    found = Generation.parse(given)
    assert given == before, "the settings belong to lmms-eval"
    assert found.max_new_tokens == 5
    del given["max_new_tokens"]
    assert found.options == {**given, "do_sample": True}
    assert Generation.parse({"do_sample": True}).options == {"do_sample": True}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 3}, "'num_beams' cannot be used"),
        ({"max_agentic_steps": 3}, r"generate\(\) has no option 'max_agentic_steps'"),
    ],
)
def test_settings_that_cannot_be_served_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Generation.parse(settings)


@pytest.mark.parametrize(
    ("until", "answer", "expected"),
    [
        (["\n\n"], "red\n\nblue", "red"),
        (["stop", "."], "red. stop", "red"),
        ("ASSISTANT:", "red ASSISTANT: no", "red "),
        (["\n\n", ""], "red\nblue", "red\nblue"),
        (None, "red", "red"),
        ([], "", ""),
    ],
)
def test_an_answer_ends_at_the_first_of_until(until, answer, expected):
    assert Generation.parse({"until": until}).cut(answer) == expected


def test_model_arguments_choose_the_model_and_its_crops():
    arguments = {"pretrained": str(backbone_dir()), "device": "cpu"}
    assert Session.load(ModelArguments.parse(arguments)).proposer is None
    own = {**arguments, "rpn": str(rpn_dir())}
    found = Session.load(ModelArguments.parse(own)).proposer
    assert isinstance(found, RPNProposer)
    assert isinstance(found.policy, BboxPolicy)
    given = {**own, "threshold": 0.3, "policy_options": '{"max_crops": 1}'}
    policy = ModelArguments.parse(given).crop_policy()
    assert (policy.threshold, policy.max_crops) == (0.3, 1)
    assert policy.blur == found.policy.blur, "the RPN's other options stay"
    other = ModelArguments.parse({**own, "policy": "mask", "threshold": 0.3}).crop_policy()
    assert isinstance(other, MaskPolicy)
    looking = ModelArguments.parse({**arguments, "first_look_tokens": 49})
    assert Session.load(looking).first_look_tokens == 49
    assert Session.load(ModelArguments.parse(own)).first_look_tokens is None


def test_the_session_answers_as_the_arguments_say():
    record = read_records("glyphs/small", n=1)[0]
    asked = simple_question(record.question, [open_image(record.images[0])])
    dynamic = {"pretrained": str(backbone_dir("qwen2_5_vl")), "rpn": str(rpn_dir("qwen2_5_vl"))}
    found = {}
    for name, more in {
        "always": {},
        "coarse": {"first_look_tokens": 49},
        "sure": {"confidence_threshold": 1e-9},
    }.items():
        session = Session.load(ModelArguments.parse({**dynamic, **more}))
        ((_, found[name]),) = session.answer_stream([asked], max_new_tokens=4)
    assert found["always"].outcome == "ok"
    assert found["coarse"].proposals[0].geometry.grid < found["always"].proposals[0].geometry.grid
    assert found["sure"].outcome == "not_needed"
    (plain,) = answer_batch(session.backbone, [asked], max_new_tokens=4)
    assert found["sure"].ids == plain.ids


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rpn": "x"}, ConfigError, "pretrained is missing"),
        ({"pretrained": "x", "rnp": "y"}, ConfigError, "did you mean 'rpn'"),
        ({"pretrained": "x", "threshold": 0.1}, ConfigError, "give rpn="),
        ({"pretrained": "x", "confidence_threshold": 0.5}, ConfigError, "look: give rpn="),
        (
            {"pretrained": "x", "rpn": "y", "confidence_threshold": 1.5},
            ConfigError,
            "at most 1, not 1.5",
        ),
        ({"pretrained": "x", "threshold": "high"}, ConfigError, "a finite number"),
        (
            {"pretrained": "x", "rpn": str(rpn_dir()), "policy": "box"},
            UnknownNameError,
            "did you mean 'bbox'",
        ),
        (
            {"pretrained": "x", "rpn": str(rpn_dir()), "policy_options": "max_crops=1"},
            ConfigError,
            "no JSON object",
        ),
    ],
)
def test_wrong_model_arguments_are_refused_in_one_line(arguments, error, message):
    with pytest.raises(error, match=message) as refused:
        ModelArguments.parse(arguments).crop_policy()
    assert "\n" not in str(refused.value)


def test_the_task_asks_and_scores_what_the_benchmark_does():
    spec = importlib.util.spec_from_file_location("task_utils", TASK / "utils.py")
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    documents = [json.loads(line) for line in (TASK / "small.jsonl").read_text().splitlines()]
    records = read_records("glyphs/small", n=len(documents), seed=0)
    assert [document["index"] for document in documents] == list(range(300))
    for index in (0, 7, 299):
        document, record = documents[index], records[index]
        assert utils.doc_to_text(document) == record.question
        assert utils.doc_to_target(document) == record.answer
        (picture,) = utils.doc_to_visual(document)
        assert picture.tobytes() == record.images[0].tobytes()
        assert utils.process_results(document, [record.answer]) == {"accuracy": 1}
        assert utils.process_results(document, ["a shape"]) == {"accuracy": 0}


def test_the_folder_of_the_tasks_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "sdrpn_lmms_eval"], capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == sdrpn_lmms_eval.TASKS
    assert (TASK / "sdrpn_glyphs_small.yaml").is_file()

"""The model behind a server: replies in a batch are those of single answers, bad calls refusals."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from dataclasses import replace
from functools import partial

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from sdrpn_core import Question, RoIModel, answer, load_backbone, open_image, read_records
from sdrpn_core.errors import ConfigError
from sdrpn_glyphs import backbone_dir, rpn_dir
from sdrpn_serve.calls import Ask, Located, Look, Refusal, Reply
from sdrpn_serve.runner import ModelRunner
from sdrpn_serve.served_model import ServedModel
from sdrpn_serve.settings import ModelSettings
from tests.backbones.stock_answers import stock_answer
from tests.plugins.serving import data_uri

MAX_PIXELS = 10**6


@pytest.fixture(scope="module")
def model() -> RoIModel:
    return RoIModel.from_pretrained(rpn_dir("llava"))


@pytest.fixture(scope="module")
def served(model) -> ServedModel:
    return ServedModel(model, MAX_PIXELS)


def encoded(image) -> bytes:
    return base64.b64decode(data_uri(open_image(image)).partition(",")[2])


@pytest.fixture(scope="module")
def asks() -> list[Ask]:
    records = read_records("glyphs/small", n=5)
    return [Ask(r.question, (encoded(r.images[0]),), max_tokens=6) for r in records]


def test_a_batch_is_what_each_question_is_alone(model, served, asks):
    broken = replace(asks[1], images=(b"no image",))
    unfit = replace(asks[1], max_tokens=10**6)
    short = replace(asks[2], max_tokens=1)
    likeliest = replace(asks[3], temperature=2.0, top_p=1e-9)
    stopped = replace(asks[4], stop=(" ",))
    mixed = [asks[0], broken, unfit, short, likeliest, asks[4], stopped]
    replies = served.answer(mixed)
    alone = [model.answer(list(ask.images), ask.text, max_new_tokens=6) for ask in asks]

    assert replies[1] == Refusal(
        "image 1: not an image in a supported format (PNG, JPEG, WEBP, GIF, TIFF, BMP, PPM, "
        "JPEG2000, HEIF, AVIF)"
    )
    assert isinstance(replies[2], Refusal)
    assert "exceeds the context" in replies[2].message
    for reply, one in ((replies[0], alone[0]), (replies[4], alone[3]), (replies[5], alone[4])):
        assert isinstance(reply, Reply)
        assert (reply.text, reply.finish_reason) == (one.text, "stop")
        assert reply.prompt_tokens == one.n_prompt_tokens
        assert reply.completion_tokens == len(one.ids)
        assert reply.facts["boxes"] == [list(box) for box in one.boxes]
        assert reply.facts["outcome"] == str(one.outcome)
        assert reply.facts["visual_tokens"] == one.n_visual_tokens
    assert (replies[3].finish_reason, replies[3].completion_tokens) == ("length", 1)
    assert replies[6].text == alone[4].text.split()[0]
    assert replies[6].finish_reason == "stop"


def test_prompts_are_as_long_as_the_decoder_saw_them(model, asks):
    """The count is that of the positions that the decoder gets."""
    lengths = []
    handle = model.backbone.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(int(kwargs["position_ids"].max()) + 1),
        with_kwargs=True,
    )
    try:
        answer = model.answer(list(asks[0].images), asks[0].text, max_new_tokens=1)
    finally:
        handle.remove()
    assert answer.outcome == "ok"
    assert answer.n_prompt_tokens == lengths[-1]


def test_sampling_samples(served, asks):
    ask = replace(asks[0], images=(), text="what is it", temperature=2.0, max_tokens=12)
    assert len({reply.text for reply in served.answer([ask] * 8)}) > 1


@pytest.fixture
def greedy_checkpoint(monkeypatch, model):
    """It samples from its likeliest token alone, as some on the Hub do."""
    monkeypatch.setattr(model.backbone.model.generation_config, "top_k", 1)


@pytest.mark.usefixtures("greedy_checkpoint")
def test_temperature_outweighs_the_checkpoints_own_choice(served, asks):
    ask = replace(asks[0], images=(), text="what is it", temperature=2.0, max_tokens=12)
    assert len({reply.text for reply in served.answer([ask] * 8)}) > 1


def test_sampling_is_from_all_tokens(served, asks):
    """Not from the 50 likeliest, which is what transformers does by itself."""
    ask = replace(asks[0], images=(), temperature=1e4, max_tokens=1)
    assert len({reply.text for reply in served.answer([ask] * 300)}) > 51  # "" may be one


def test_a_temperature_too_small_to_divide_by_is_none(served, asks):
    (expected,) = served.answer([asks[0]])
    for temperature in (1e-9, 1e-45, 5e-324):
        (reply,) = served.answer([replace(asks[0], temperature=temperature)])
        assert (reply.text, reply.finish_reason) == (expected.text, expected.finish_reason)


def test_locating_is_what_the_model_proposes(model, served, asks):
    located = served.locate(Look(asks[0].text, asks[0].images * 2, heatmap=True))
    assert isinstance(located, Located)
    proposals = model.propose(list(asks[0].images * 2), asks[0].text)
    for facts, png, proposal in zip(located.images, located.heatmaps, proposals, strict=True):
        assert [tuple(crop["box"]) for crop in facts["crops"]] == proposal.boxes
        drawn = Image.open(io.BytesIO(png))
        assert drawn.tobytes() == proposal.overlay(asks[0].images[0]).tobytes()
    assert not served.locate(Look(asks[0].text, asks[0].images)).heatmaps
    assert served.locate(Look(asks[0].text, ())) == Refusal("the question has no image")


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(served):
    buffer = io.BytesIO()
    Image.new("1", (4000, 4000)).save(buffer, format="PNG")
    (refusal,) = served.answer([Ask("what?", (buffer.getvalue(),), 4)])
    assert refusal.message.startswith("image 1: 4000x4000 is over the limit of 1000000 pixels")


def test_settings_choose_the_policy(model, served, asks):
    options = {"threshold": 0.01}
    settings = ModelSettings(str(rpn_dir("llava")), policy="mask", policy_options=options)
    (reply,) = ServedModel.load(settings, MAX_PIXELS).answer(asks[:1])
    (proposal,) = model.with_policy("mask", options).propose(list(asks[0].images), asks[0].text)
    assert reply.facts["boxes"] == [list(box) for box in proposal.boxes]
    assert reply.facts["boxes"] != served.answer(asks[:1])[0].facts["boxes"]


def test_settings_choose_the_first_look(asks):
    settings = ModelSettings(
        str(backbone_dir("qwen2_5_vl")), str(rpn_dir("qwen2_5_vl")), first_look_tokens=49
    )
    served = ServedModel.load(settings, MAX_PIXELS)
    limited = load_backbone(backbone_dir("qwen2_5_vl")).with_visual_tokens(49)
    grid = limited.preprocess(open_image(asks[0].images[0])).geometry.grid
    (reply,) = served.answer(asks[:1])
    assert reply.facts["images"][0]["grid"] == grid
    located = served.locate(Look(asks[0].text, asks[0].images))
    assert located.images[0]["grid"] == grid


def test_settings_choose_the_gates_threshold():
    settings = ModelSettings(str(backbone_dir()), str(rpn_dir()), gate_threshold=0.5)
    with pytest.raises(ConfigError, match="this RPN has no gate"):
        ServedModel.load(settings, MAX_PIXELS)


def test_sure_answers_stay_and_are_streamed_in_one_piece(model, asks):
    first, other = asks[:2]
    plain = answer(model.backbone, list(first.images), first.text, max_new_tokens=6)
    served = ServedModel(model, MAX_PIXELS, confidence_threshold=1e-9)
    pieces = []
    streamed = served.stream(first, pieces.append, threading.Event())
    word = plain.text.split()[0]
    stopped = replace(first, stop=(" ", "z"))
    for reply in (*served.answer([first, other])[:1], streamed):
        assert (reply.text, reply.facts["outcome"]) == (plain.text, "not_needed")
        assert (reply.finish_reason, reply.completion_tokens) == ("stop", len(plain.ids))
        assert 0 < reply.facts["confidence"] < 1
    assert pieces == [plain.text]
    (cut,) = served.answer([stopped])
    assert (cut.text, cut.finish_reason) == (word, "stop")
    (unsure,) = ServedModel(model, MAX_PIXELS, confidence_threshold=1.0).answer([other])
    assert unsure.facts["outcome"] in ("ok", "less_sure")


@pytest.mark.parametrize("threshold", [None, 1e-9, 1.0], ids=["always", "sure", "unsure"])
@pytest.mark.parametrize("stop", ["\n", "shape", "?", "green", "white"])
def test_stop_strings_are_looked_for_in_the_response_alone(model, threshold, stop):
    """The template has line ends, and a question says what the response may be about."""
    served = ServedModel(model, MAX_PIXELS, threshold)
    decode = partial(model.backbone.tokenizer.decode, skip_special_tokens=True)
    for record in read_records("glyphs/mixed", n=7)[5:]:
        question = Question.about(list(record.images), record.question)
        proposer = None if threshold == 1e-9 else model.proposer
        ids = stock_answer(model.backbone, question, proposer, suppress_tokens=None)
        before, found, _ = decode(ids).partition(stop)
        ask = Ask(record.question, (encoded(record.images[0]),), max_tokens=6, stop=(stop,))
        (reply,) = served.answer([ask])
        assert (reply.text, reply.finish_reason) == (before.strip(), "stop")
        n_tokens = len([one for one in ids if one != model.backbone.tokenizer.eos_token_id])
        if not found:
            assert reply.completion_tokens == n_tokens
        elif threshold is not None:  # it ended there
            pieces = (decode(ids[:n]) for n in range(1, n_tokens + 1))
            assert reply.completion_tokens == 1 + [stop in piece for piece in pieces].index(True)


def test_a_server_refuses_a_threshold_that_is_none():
    with pytest.raises(ConfigError, match="at most 1, not 2"):
        ModelSettings("unused", confidence_threshold=2)


class _Endless:
    """A model whose response goes on until it is cancelled."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def stream(self, ask, emit, cancelled):
        while not cancelled.wait(0.001):
            emit("x")
        self.ended.set()
        return Reply("", "stop", 1, 1, {})


def test_who_stops_reading_ends_the_response():
    endless = _Endless()

    async def read_two() -> list[str]:
        events = ModelRunner(endless, 1).stream(Ask("what?", (), 9))
        found = [await anext(events), await anext(events)]
        await events.aclose()
        return found

    assert asyncio.run(read_two()) == ["x", "x"]
    assert endless.ended.wait(5)

"""A stream of questions in batches: the answers, and their order, are those of one by one."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

import sdrpn_core
import sdrpn_core.answering.stream
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.prefix_store import PrefixStore
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.rpn.model import RPN
from sdrpn_core.runtime.buckets import padding
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

N_NEW = 4
SIZES = ((60, 90), (80, 60), (200, 40), (30, 30), (120, 100))
TEXTS = ("how many ?", "what color is the small square on the left ?", "read the sign")


@pytest.fixture(scope="module", params=[tiny_llava, tiny_qwen2_5_vl], ids=["one grid", "own grids"])
def backbone(request):
    return request.param()


@pytest.fixture(scope="module")
def proposer(backbone):
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2)
    return RPNProposer(rpn, BboxPolicy(threshold=0.5, max_area_fraction=0.6))


def asked(n):
    for index in range(n):
        images = [tiny_image(index % 7, SIZES[index % len(SIZES)])] * (index % 4 != 3)
        yield Question(TEXTS[index % len(TEXTS)], tuple(images))


@pytest.fixture(scope="module")
def alone(backbone, proposer):
    return [
        answer_batch(backbone, [question], proposer, max_new_tokens=N_NEW)[0]
        for question in asked(22)
    ]


def facts(found):
    return found.ids, found.outcome, found.boxes, found.n_visual_tokens


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
@pytest.mark.parametrize("max_padding", [0.0, 0.25])
def test_a_stream_equals_one_by_one(backbone, proposer, alone, batch_size, max_padding):
    found = list(
        answer_stream(
            backbone,
            asked(22),
            proposer,
            batch_size=batch_size,
            max_padding=max_padding,
            store=PrefixStore(),
            max_new_tokens=N_NEW,
        )
    )
    assert [index for index, _ in found] == list(range(22))
    for (_, one), expected in zip(found, alone, strict=True):
        assert facts(one) == facts(expected)
    assert {one.outcome for one in alone} >= {None, "ok"}
    assert len({one.n_visual_tokens for one in alone}) > 2


def test_plain_answers_stream_as_well(backbone):
    expected = [answer_batch(backbone, [q], max_new_tokens=N_NEW)[0].ids for q in asked(9)]
    found = answer_stream(backbone, asked(9), batch_size=4, max_new_tokens=N_NEW)
    assert [one.ids for _, one in found] == expected


def watch_second_passes(monkeypatch):
    """The lengths of every batch that takes the second pass, as it does."""
    batches = []
    second_pass = sdrpn_core.answering.stream.second_pass

    def watched(backbone, pending, **generation):
        batches.append([one.lengths for one in pending])
        return second_pass(backbone, pending, **generation)

    monkeypatch.setattr(sdrpn_core.answering.stream, "second_pass", watched)
    return batches


def test_batches_are_full_and_of_one_length_as_far_as_possible(backbone, proposer, monkeypatch):
    batches = watch_second_passes(monkeypatch)
    stream = answer_stream(backbone, asked(32), proposer, batch_size=4, max_new_tokens=N_NEW)
    answers = [one for _, one in stream]
    assert len(answers) == 32
    # Those of a first pass that found nothing take no second one.
    assert sum(map(len, batches)) == sum("roi_prefill" in one.seconds for one in answers) > 16
    assert all(len(batch) <= 4 and padding(batch) <= 0.2 for batch in batches)
    assert max(map(len, batches)) == 4
    assert len(batches) < 16  # more than two questions a batch


def test_few_questions_wait_however_different_they_are(backbone, monkeypatch):
    """No two of them fit one batch, so nothing but the limit ever lets one go."""
    batch_size, n = 4, 24
    batches = watch_second_passes(monkeypatch)
    waiting = []

    def questions():
        for index in range(n):
            waiting.append(index - sum(map(len, batches)))
            yield Question(" ".join(["how"] * (index + 1)), (tiny_image(index, (60, 90)),))

    stream = answer_stream(
        backbone, questions(), batch_size=batch_size, max_padding=0.0, max_new_tokens=1
    )
    assert [index for index, _ in stream] == list(range(n))
    assert [len(batch) for batch in batches] == [1] * n
    # One batch's worth between two first passes, the batch that takes one, and the one behind it,
    # which is read meanwhile.
    assert 2 * batch_size <= max(waiting) + 1 <= 3 * batch_size


def test_the_next_batch_is_prepared_while_one_is_answered(backbone, proposer, monkeypatch):
    batch_size = 3
    ready = threading.Semaphore(0)
    original = backbone.preprocess

    def preprocess(image):
        found = original(image)
        ready.release()
        return found

    monkeypatch.setattr(backbone, "preprocess", preprocess)
    start_answers = sdrpn_core.answering.stream.start_answers

    def watched(backbone, questions, *args, **options):
        # Those of this batch and, though nobody asked for them yet, those of the next.
        n_images = sum(len(question.images) for question in questions)
        for _ in range(2 * n_images if not answered else 0):
            assert ready.acquire(timeout=30)
        answered.append(len(questions))
        assert all(len(question.inputs) == len(question.images) for question in questions)
        return start_answers(backbone, questions, *args, **options)

    monkeypatch.setattr(sdrpn_core.answering.stream, "start_answers", watched)
    answered = []
    questions = [Question("how many ?", (tiny_image(seed),)) for seed in range(3 * batch_size)]
    found = list(answer_stream(backbone, questions, proposer, batch_size=batch_size))
    assert [index for index, _ in found] == list(range(len(questions)))
    assert answered == [batch_size] * 3


def test_images_whose_prefixes_are_stored_are_not_prepared(backbone, monkeypatch):
    store = PrefixStore()
    questions = [Question("how many ?", (tiny_image(seed),)) for seed in range(3)]
    options = {"batch_size": 2, "store": store, "max_new_tokens": 1}
    before = [found.ids for _, found in answer_stream(backbone, questions, **options)]
    prepared = []
    original = backbone.preprocess

    def preprocess(image):
        prepared.append(image)
        return original(image)

    monkeypatch.setattr(backbone, "preprocess", preprocess)
    after = [found.ids for _, found in answer_stream(backbone, questions, **options)]
    assert after == before
    assert prepared == []


def test_a_stream_that_is_left_reads_no_further(backbone):
    read = []

    def questions():
        for index in range(100):
            read.append(index)
            yield Question("how many ?", (tiny_image(0),))

    with closing(answer_stream(backbone, questions(), batch_size=2, max_new_tokens=1)) as stream:
        next(stream)
    n_read = len(read)
    assert n_read < 10
    assert not [one for one in threading.enumerate() if one.name == "sdrpn-prefetch"]
    assert len(read) == n_read


@pytest.mark.parametrize(
    "bad",
    [
        Question(" ", (tiny_image(0),)),
        Question("<image> <|image_pad|>", special_tokens=True),  # a placeholder without an image
    ],
)
def test_a_bad_question_is_named_or_left_out(backbone, proposer, bad):
    questions = [*asked(3), bad, *asked(2)]
    stream = answer_stream(backbone, questions, proposer, batch_size=4, max_new_tokens=1)
    with pytest.raises(InputError, match="question 3: "):
        list(stream)
    errors = []
    stream = answer_stream(
        backbone,
        questions,
        proposer,
        batch_size=4,
        max_new_tokens=1,
        on_error=lambda index, error: errors.append((index, type(error))),
    )
    assert [index for index, _ in stream] == [0, 1, 2, 4, 5]
    assert errors == [(3, InputError)]


def test_an_answer_beyond_the_context_is_one_bad_question():
    small = tiny_llava(max_position_embeddings=80)
    questions = [Question("how many ?", (tiny_image(0),)), Question("how " * 90)]
    errors = []
    found = answer_stream(
        small, questions, max_new_tokens=2, on_error=lambda index, error: errors.append(str(error))
    )
    assert [index for index, _ in found] == [0]
    assert "exceeds the context of 80" in errors[0]


def test_bad_settings_are_refused_at_once(backbone):
    with pytest.raises(ConfigError, match="batch size"):
        answer_stream(backbone, [], batch_size=0)
    with pytest.raises(ConfigError, match="max_padding"):
        sdrpn_core.answer_stream(backbone, [], max_padding=1.0)
    assert list(answer_stream(backbone, [])) == []

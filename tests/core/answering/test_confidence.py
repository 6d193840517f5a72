"""How sure an answer is: by the model's own logits, whatever generate() makes of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.block import Block
from sdrpn_core.runtime.generation import generate, prompt_block
from sdrpn_core.runtime.logits import block_logits
from tests.scripted import GRID, Scripted
from tests.tiny import tiny_image, tiny_llava

N_NEW = 5
SURE, UNSURE = 1e-9, 1.0
#: Of equal length, as a batch of a call whose options read prompts has to be.
QUESTIONS = [Question("one : how many ?", (tiny_image(seed),)) for seed in range(4)]
OPTIONS = {
    "none": {},
    "repetition_penalty": {"repetition_penalty": 1.3},
    "bad_words_ids": {"bad_words_ids": [[token] for token in range(20, 60)]},
    "min_new_tokens": {"min_new_tokens": N_NEW, "eos_token_id": list(range(40, 80))},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "do_sample": {"do_sample": True, "temperature": 0.3, "top_k": 5},
    "static": {"cache_implementation": "static", "repetition_penalty": 1.3},
}


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID)


@torch.no_grad()
def by_stock_forward(backbone, question, ids):
    """The least likely token of a response, by one pass over prompt and response."""
    (prompt,) = backbone.encode([question])
    block: Block = prompt_block(backbone, [prompt.followed_by(ids)])
    logits = backbone.model(
        inputs_embeds=block.embeds, attention_mask=block.mask, position_ids=block.positions
    ).logits[0, len(prompt) - 1 : -1]
    return logits.float().softmax(-1).gather(1, torch.tensor(ids)[:, None]).min().item()


@pytest.mark.parametrize("name", OPTIONS)
def test_confidence_is_of_the_logits_of_the_model(backbone, name):
    torch.manual_seed(0)
    found = answer_batch(
        backbone,
        QUESTIONS,
        Scripted(),
        max_new_tokens=N_NEW,
        confidence_threshold=SURE,
        **OPTIONS[name],
    )
    for question, answer in zip(QUESTIONS, found, strict=True):
        assert answer.ids
        expected = by_stock_forward(backbone, question, answer.ids)
        assert answer.confidence == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_the_options_change_the_answers(backbone):
    """Otherwise nothing above would be told apart."""
    plain = [one.ids for one in answer_batch(backbone, QUESTIONS, max_new_tokens=N_NEW)]
    for name in ("repetition_penalty", "bad_words_ids", "no_repeat_ngram_size"):
        other = answer_batch(backbone, QUESTIONS, max_new_tokens=N_NEW, **OPTIONS[name])
        assert [one.ids for one in other] != plain, name


def test_a_penalty_of_the_checkpoint_counts_as_little(backbone):
    config = backbone.model.generation_config
    config.repetition_penalty = 1.3
    try:
        found = answer_batch(
            backbone, QUESTIONS, Scripted(), max_new_tokens=N_NEW, confidence_threshold=SURE
        )
    finally:
        config.repetition_penalty = None
    for question, answer in zip(QUESTIONS, found, strict=True):
        expected = by_stock_forward(backbone, question, answer.ids)
        assert answer.confidence == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["repetition_penalty", "bad_words_ids", "no_repeat_ngram_size"])
def test_what_is_recorded_changes_no_answer(backbone, name):
    options = {"max_new_tokens": N_NEW, **OPTIONS[name]}
    plain = answer_batch(backbone, QUESTIONS, **options)
    sure = answer_batch(backbone, QUESTIONS, Scripted(), confidence_threshold=SURE, **options)
    assert [one.ids for one in sure] == [one.ids for one in plain]
    streamed = answer_stream(
        backbone, QUESTIONS, Scripted(), confidence_threshold=SURE, batch_size=2, **options
    )
    assert [one.ids for _, one in streamed] == [one.ids for one in plain]


def test_threads_record_their_own(backbone):
    """Several answers at once on one model."""
    options = {"max_new_tokens": N_NEW, "confidence_threshold": SURE, "repetition_penalty": 1.3}

    def ask(question):
        (answer,) = answer_batch(backbone, [question], Scripted(), **options)
        return answer.ids, answer.confidence

    alone = [ask(question) for question in QUESTIONS]
    barrier = threading.Barrier(len(QUESTIONS))

    def together(question):
        barrier.wait()
        return ask(question)

    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        found = list(pool.map(together, QUESTIONS))
    for (ids, sure), (expected_ids, expected) in zip(found, alone, strict=True):
        assert ids == expected_ids
        assert sure == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_an_observer_sees_the_logits_before_anything_else(backbone):
    seen, processed = [], []

    def keep(into):
        def called(input_ids, scores):
            into.append(scores.clone())
            return scores

        return called

    prompts = backbone.encode(QUESTIONS)
    block = prompt_block(backbone, prompts)
    generate(
        backbone,
        block,
        max_new_tokens=1,
        observer=keep(seen),
        logits_processor=[keep(processed)],
        repetition_penalty=1.3,
    )
    expected = block_logits(backbone, block, keep=1)[:, -1]
    (raw,), (other,) = seen, processed
    torch.testing.assert_close(raw, expected.float())
    assert not torch.equal(raw, other)


def test_a_decoding_of_ones_own_says_nothing_of_how_sure_it_is(backbone):
    with pytest.raises(ConfigError, match="custom_generate"):
        answer_batch(
            backbone,
            QUESTIONS[:1],
            Scripted(),
            confidence_threshold=UNSURE,
            custom_generate=lambda *args, **kwargs: None,
        )

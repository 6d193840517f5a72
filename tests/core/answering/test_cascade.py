"""Plain answers stay where they are sure, by the stock model's probabilities."""

from __future__ import annotations

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

from sdrpn_bench.cascade import Cascade
from sdrpn_bench.method import MethodContext
from sdrpn_bench.sweep import answer_alike
from sdrpn_core.answering.answer import answer, answer_batch
from sdrpn_core.answering.prefix_store import PrefixStore
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.answering.token_layers import TokenLayerCounter
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.model import RPN
from tests.scripted import GRID, LONG_QUESTIONS, QUESTIONS, Scripted
from tests.tiny import tiny_image, tiny_llava

N_NEW = 6


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID)


@torch.no_grad()
def stock_confidence(backbone, question, max_new_tokens=N_NEW):
    """The least likely token of stock ``generate``, uncached, without its end token."""
    (prompt,) = backbone.encode([question])
    found = backbone.model.generate(
        inputs_embeds=backbone.embed(prompt)[None],
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids = found.sequences[0].tolist()
    end = backbone.model.generation_config.eos_token_id
    n_ids = ids.index(end) if end in ids else len(ids)
    return min(found.logits[step][0].softmax(-1)[ids[step]].item() for step in range(n_ids))


@pytest.mark.parametrize("n_new", [1, N_NEW])
@pytest.mark.parametrize("questions", [QUESTIONS, LONG_QUESTIONS], ids=["short", "long"])
@pytest.mark.parametrize("stored", [False, True])
def test_a_batch_is_decided_question_by_question(backbone, questions, stored, n_new):
    asked = list(questions.values())
    expected = [stock_confidence(backbone, question, n_new) for question in asked]
    threshold = sorted(expected)[len(expected) // 2]
    options = {"max_new_tokens": n_new}
    found = answer_batch(
        backbone,
        asked,
        Scripted(),
        confidence_threshold=threshold - 1e-6,
        store=PrefixStore() if stored else None,
        **options,
    )
    plain = answer_batch(backbone, asked, **options)
    looked = answer_batch(backbone, asked, Scripted(), **options)
    decided = set()
    for question, one, confidence, without, with_crops in zip(
        asked, found, expected, plain, looked, strict=True
    ):
        assert one.confidence == pytest.approx(confidence, abs=1e-5)
        is_sure = confidence >= threshold
        decided.add(is_sure)
        assert one.ids == (without if is_sure else with_crops).ids
        assert (one.outcome is None) == (not question.images)
        if is_sure or not question.images:
            assert one.outcome in (Outcome.NOT_NEEDED, None)
            assert all(proposal.geometry is not None for proposal in one.proposals)
            assert not one.seconds.keys() & {"crop", "roi_prefill"}
        else:
            assert (one.outcome, one.boxes) == (with_crops.outcome, with_crops.boxes)
            assert one.seconds.keys() >= {"prefix", "prefill", "decode", "proposal", "crop"}
            # Where nothing is cropped, nothing is generated again.
            assert ("roi_prefill" in one.seconds) == (one.outcome is Outcome.OK)
    assert decided == {True, False}


def test_images_run_once_and_the_trunk_only_where_it_is_asked(backbone):
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2)
    proposer = RPNProposer(rpn, BboxPolicy(threshold=1e-6, max_area_fraction=1.0))
    question = next(one for one in QUESTIONS.values() if len(one.images) == 1)
    spent = {}
    for name, threshold in (("sure", 1e-9), ("unsure", 1.0), ("always", None)):
        with TokenLayerCounter(backbone, rpn) as counter:
            answer_batch(
                backbone, [question], proposer, max_new_tokens=1, confidence_threshold=threshold
            )
        spent[name] = counter
    (prompt,) = backbone.encode([question])
    assert spent["sure"].rpn_token_layers == 0
    assert spent["sure"].token_layers == len(prompt) * backbone.n_layers
    assert spent["unsure"].rpn_token_layers == spent["always"].rpn_token_layers > 0
    # The plain answer adds no image: only the tokens behind it.
    more = spent["unsure"].token_layers - spent["always"].token_layers
    assert 0 < more < backbone.n_layers * (len(prompt) - prompt.n_visual_tokens)


def test_a_sure_batch_asks_no_proposer(backbone):
    class Asked(Scripted):
        def propose(self, state):
            raise AssertionError("asked")

    found = answer_batch(
        backbone, list(QUESTIONS.values()), Asked(), max_new_tokens=2, confidence_threshold=1e-9
    )
    assert {one.outcome for one in found} <= {Outcome.NOT_NEEDED, None}


def test_processors_of_the_caller_still_run(backbone):
    class Never(torch.nn.Module):
        def __call__(self, input_ids, scores):
            return scores.index_fill(1, torch.tensor([first]), -torch.inf)

    question = next(iter(QUESTIONS.values()))
    (plain,) = answer_batch(backbone, [question], max_new_tokens=1)
    (first,) = plain.ids
    (other,) = answer_batch(
        backbone,
        [question],
        Scripted(),
        max_new_tokens=1,
        confidence_threshold=1e-9,
        logits_processor=[Never()],
    )
    assert other.ids != plain.ids
    assert 0 < other.confidence < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence_threshold": 0.0}, "above 0, at most 1, not 0"),
        ({"confidence_threshold": 1.5}, "not 1.5"),
        ({"confidence_threshold": float("nan")}, "not nan"),
        ({"confidence_threshold": 0.5, "streamer": BaseStreamer()}, "cannot be streamed"),
    ],
)
def test_bad_thresholds_are_refused(backbone, options, message):
    question = next(iter(QUESTIONS.values()))
    with pytest.raises(ConfigError, match=message):
        answer_batch(backbone, [question], Scripted(), **options)


def test_streams_of_answers_say_that_they_have_no_threshold(backbone):
    with pytest.raises(ConfigError, match=r"answer\(\) and answer_batch\(\) take it"):
        answer_stream(backbone, [], Scripted(), confidence_threshold=0.5)


def test_a_threshold_needs_something_to_look_with(backbone):
    with pytest.raises(ConfigError, match="give a proposer"):
        answer(backbone, tiny_image(), "what color ?", confidence_threshold=0.5)


def test_the_method_of_the_benchmark(backbone):
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2)
    context = MethodContext(backbone, rpn, max_new_tokens=2, seed=0)
    records = [Record(str(seed), (tiny_image(seed),), "what color ?") for seed in range(2)]
    images = [record.images for record in records]
    methods = [Cascade(confidence_threshold=value) for value in (1e-9, 1.0)]
    (sure, cheap), (unsure, dear) = answer_alike(context, methods, records, images)
    assert {one.outcome for one in sure} == {Outcome.NOT_NEEDED}
    assert Outcome.NOT_NEEDED not in {one.outcome for one in unsure}
    assert cheap.token_layers < dear.token_layers
    with pytest.raises(ConfigError, match="not 2"):
        Cascade(confidence_threshold=2)

"""Plain answers stay where they are sure, by the stock model's probabilities."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from sdrpn_bench.cascade import Cascade
from sdrpn_bench.method import MethodContext
from sdrpn_bench.sweep import answer_alike
from sdrpn_core.answering.answer import answer, answer_batch
from sdrpn_core.answering.prefix_store import PrefixStore
from sdrpn_core.answering.results import PendingAnswer
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.answering.token_layers import TokenLayerCounter
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.data.record import Record
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.model import RPN
from tests.scripted import GRID, LONG_QUESTIONS, QUESTIONS, Scripted, spliced
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

N_NEW = 6
#: A token that ends some answers early, none before it begins.
END = 66


class _Behind(StoppingCriteria):
    def __call__(self, input_ids, scores):
        return input_ids[:, -1] == END


ENDS = {
    "eos_token_id": {"eos_token_id": END},
    "stopping_criteria": {"stopping_criteria": StoppingCriteriaList([_Behind()])},
}
ASKED = {
    "short": list(QUESTIONS.values()),
    "long": list(LONG_QUESTIONS.values()),
    # The rest is of equal length: a criterion reads prompts, so no padding is in them.
    "ending": [
        *QUESTIONS.values(),
        *(Question("one : how many ?", (tiny_image(n),)) for n in range(8)),
    ],
}


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID)


@torch.no_grad()
def stock(backbone, question, proposer=None, max_new_tokens=N_NEW, **options):
    """Ids of stock ``generate``, uncached, and the least likely one, both without the end token."""
    prompt = spliced(backbone, question, proposer)
    found = backbone.model.generate(
        inputs_embeds=backbone.embed(prompt)[None],
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    ids = found.sequences[0].tolist()
    end = options.get("eos_token_id", backbone.model.generation_config.eos_token_id)
    ids = ids[: ids.index(end)] if end in ids else ids
    steps = [found.logits[step][0].softmax(-1)[one].item() for step, one in enumerate(ids)]
    return tuple(ids), min(steps)


@pytest.fixture(scope="module")
def references(backbone):
    """What the stock model answers plainly and with crops, by the names of questions and ends.

    Uncached decoding takes its time: what several tests ask is asked once.
    """

    @cache
    def both(asked, n_new=N_NEW, end=None):
        options = ENDS.get(end, {})
        return [
            [stock(backbone, question, proposer, n_new, **options) for question in ASKED[asked]]
            for proposer in (None, Scripted())
        ]

    return both


def in_batch(backbone, questions, **options):
    return answer_batch(backbone, questions, Scripted(), **options)


def in_stream(backbone, questions, **options):
    found = answer_stream(backbone, questions, Scripted(), batch_size=3, **options)
    return [one for _, one in found]


@pytest.mark.parametrize("n_new", [1, N_NEW])
@pytest.mark.parametrize("questions", ["short", "long"])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("answered", [in_batch, in_stream])
def test_questions_are_decided_one_by_one(backbone, references, questions, stored, n_new, answered):
    asked = ASKED[questions]
    plain, cropped = references(questions, n_new)
    looked = in_batch(backbone, asked, max_new_tokens=n_new)
    threshold = sorted(confidence for _, confidence in plain)[len(asked) // 2]
    found = answered(
        backbone,
        asked,
        confidence_threshold=threshold - 1e-6,
        store=PrefixStore() if stored else None,
        max_new_tokens=n_new,
    )
    for question, one, before, after, with_crops in zip(
        asked, found, plain, cropped, looked, strict=True
    ):
        if not question.images:
            assert (one.ids, one.outcome) == (before[0], None)
            continue
        assert all(proposal.geometry is not None for proposal in one.proposals)
        if before[1] >= threshold:
            ids, confidence = before
            assert one.outcome is Outcome.NOT_NEEDED
            assert not one.seconds.keys() & {"crop", "roi_prefill"}
        else:
            ids, confidence = after if after[1] >= before[1] else before
            assert one.n_visual_tokens == with_crops.n_visual_tokens
            assert one.seconds.keys() >= {"prefix", "prefill", "decode", "proposal", "crop"}
            # Where nothing is cropped, nothing is generated again.
            assert ("roi_prefill" in one.seconds) == bool(with_crops.boxes)
            is_kept = ids != after[0]
            assert one.outcome is (Outcome.LESS_SURE if is_kept else with_crops.outcome)
            assert one.boxes == ([] if is_kept else with_crops.boxes)
            reasons = [proposal.plan.reason for proposal in one.proposals]
            assert any(f"surer ({before[1]:.2f})" in reason for reason in reasons) == is_kept
        assert one.ids == ids
        assert one.text == backbone.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert one.confidence == pytest.approx(confidence, abs=1e-5)


@pytest.mark.parametrize("pad", [0, 4])
@pytest.mark.parametrize("answered", [in_batch, in_stream])
@pytest.mark.parametrize("way", ENDS)
def test_both_answers_end_where_the_call_ends_them(
    backbone, references, monkeypatch, way, answered, pad
):
    """So what lies behind the end of a row decides nothing."""
    monkeypatch.setattr(backbone.model.generation_config, "pad_token_id", pad)
    plain, cropped = references("ending", end=way)
    for found in (plain, cropped):
        assert len({len(ids) for ids, _ in found}) > 1
    found = answered(
        backbone, ASKED["ending"], confidence_threshold=1.0, max_new_tokens=N_NEW, **ENDS[way]
    )
    for one, before, after in zip(found, plain, cropped, strict=True):
        ids, confidence = after if after[1] >= before[1] else before
        assert one.ids == ids
        assert one.confidence == pytest.approx(confidence, abs=1e-5)


def test_every_kind_of_decision_is_among_them(backbone):
    """Or the test above would prove less than it says."""
    asked = list(QUESTIONS.values())
    confidences = [stock(backbone, question)[1] for question in asked]
    threshold = sorted(confidences)[len(asked) // 2]
    found = in_batch(backbone, asked, confidence_threshold=threshold, max_new_tokens=N_NEW)
    outcomes = {one.outcome for one in found}
    assert outcomes >= {Outcome.NOT_NEEDED, Outcome.LESS_SURE, Outcome.OK, None}


def test_only_images_that_were_cropped_are_less_sure(backbone):
    (found,) = in_batch(backbone, [QUESTIONS["first only"]], max_new_tokens=1)
    plain = replace(found, ids=(*found.ids, 1), text="plain", confidence=0.5)
    pending = PendingAnswer(None, None, 0, found.proposals, "roi_prefill", {}, plain)
    kept = pending.settled(replace(found, confidence=0.4))
    assert (kept.text, kept.ids, kept.confidence) == ("plain", plain.ids, 0.5)
    outcomes = [proposal.plan.outcome for proposal in kept.proposals]
    assert outcomes == [Outcome.LESS_SURE, Outcome.NO_ROI]
    assert kept.outcome is Outcome.LESS_SURE
    assert replace(kept, proposals=kept.proposals[::-1]).outcome is Outcome.LESS_SURE
    assert pending.settled(replace(found, confidence=0.5)).text == found.text


def test_after_a_coarse_look_the_answer_with_crops_stays():
    backbone = tiny_qwen2_5_vl()
    rpn = RPN.from_backbone(backbone, branch=1, n_layers=2)
    proposer = RPNProposer(rpn, BboxPolicy(threshold=1e-6, max_area_fraction=1.0))
    sizes = [(120, 90), (80, 160), (200, 100), (90, 90)]
    asked = [
        Question(text, (tiny_image(seed, size),))
        for seed, size in enumerate(sizes)
        for text in ("how many ?", "what color ?", "read the sign")
    ]
    options = {"max_new_tokens": 3, "confidence_threshold": 1.0}
    outcomes = {one.outcome for one in answer_batch(backbone, asked, proposer, **options)}
    assert Outcome.LESS_SURE in outcomes
    coarse = answer_batch(backbone, asked, proposer, first_look_tokens=6, **options)
    always = answer_batch(backbone, asked, proposer, first_look_tokens=6, max_new_tokens=3)
    for one, other in zip(coarse, always, strict=True):
        assert (one.ids, one.outcome, one.boxes) == (other.ids, other.outcome, other.boxes)
        assert one.seconds.keys() > other.seconds.keys()
        assert one.confidence > 0
    # A budget that leaves every image as it is changes nothing.
    free = answer_batch(backbone, asked, proposer, **options)
    most = max(one.proposals[0].geometry.grid for one in free)
    roomy = answer_batch(backbone, asked, proposer, first_look_tokens=math.prod(most), **options)
    same = [
        (one, other)
        for one, other in zip(free, roomy, strict=True)
        if one.proposals[0].geometry == other.proposals[0].geometry
    ]
    assert any(one.outcome is Outcome.LESS_SURE for one, _ in same)
    for one, other in same:
        assert (one.ids, one.outcome, one.boxes) == (other.ids, other.outcome, other.boxes)


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


def test_a_threshold_of_1_always_looks(backbone):
    """Also where the model is so sure that the probability is 1 to the last bit."""
    output = tiny_llava(grid=GRID)
    with torch.no_grad():
        output.model.get_output_embeddings().weight.mul_(1000)
    question = QUESTIONS["ok"]
    options = {"max_new_tokens": 2, "confidence_threshold": 1.0}
    (sure,) = in_batch(output, [question], **{**options, "confidence_threshold": 0.999})
    assert (sure.confidence, sure.outcome) == (1.0, Outcome.NOT_NEEDED)
    (found,) = in_batch(output, [question], **options)
    assert found.outcome in (Outcome.OK, Outcome.LESS_SURE)


def test_an_answer_that_just_reaches_the_threshold_stays(backbone):
    question = QUESTIONS["ok"]
    options = {"max_new_tokens": 2}
    (plain,) = in_batch(backbone, [question], confidence_threshold=1e-9, **options)
    for threshold, stays in (
        (plain.confidence, True),
        (math.nextafter(plain.confidence, 1.0), False),
    ):
        (found,) = in_batch(backbone, [question], confidence_threshold=threshold, **options)
        assert (found.outcome is Outcome.NOT_NEEDED) == stays


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
    for answered in (in_batch, in_stream):
        with pytest.raises(ConfigError, match=message):
            answered(backbone, [question], **options)


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

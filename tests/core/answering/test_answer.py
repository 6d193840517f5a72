"""Two-stage answers equal a plain generation on the whole spliced sequence, token for token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from sdrpn_core.answering.answer import answer, answer_batch
from sdrpn_core.answering.attention_proposer import AttentionProposer
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.errors import ConfigError, ImageError, InputError
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.rpn.model import RPN
from tests.scripted import GRID, IMAGES, LONG_QUESTIONS, N_CROPS, QUESTIONS, Scripted, spliced
from tests.tiny import tiny_image, tiny_llava

N_NEW = 6


@pytest.fixture(scope="module")
def backbone():
    return tiny_llava(grid=GRID)


def recompute(backbone, question, proposer):
    """Ids and visual tokens of stock ``generate`` on the whole spliced sequence, uncached."""
    prompt = spliced(backbone, question, proposer)
    with torch.no_grad():
        ids = backbone.model.generate(
            inputs_embeds=backbone.embed(prompt)[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=N_NEW,
            do_sample=False,
            use_cache=False,
        )[0].tolist()
    end = backbone.model.generation_config.eos_token_id
    return tuple(ids[: ids.index(end)] if end in ids else ids), prompt.n_visual_tokens


@pytest.mark.parametrize("questions", [QUESTIONS, LONG_QUESTIONS], ids=["short", "long"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_an_answer_equals_full_recomputation(backbone, questions, name):
    (found,) = answer_batch(backbone, [questions[name]], Scripted(), max_new_tokens=N_NEW)
    ids, n_visual_tokens = recompute(backbone, questions[name], Scripted())
    assert found.ids == ids
    assert found.n_visual_tokens == n_visual_tokens
    assert len(found.boxes) == N_CROPS[name]
    images = len(QUESTIONS[name].images)
    assert n_visual_tokens == (images + N_CROPS[name]) * GRID**2


def test_crops_change_answers(backbone):
    """Or the tests here would prove nothing."""
    changed = 0
    for name, question in QUESTIONS.items():
        (plain,) = answer_batch(backbone, [question], max_new_tokens=N_NEW)
        (found,) = answer_batch(backbone, [question], Scripted(), max_new_tokens=N_NEW)
        assert plain.proposals == ()
        if N_CROPS[name] == 0:
            assert found.ids == plain.ids
            assert found.n_visual_tokens == plain.n_visual_tokens
        changed += found.ids != plain.ids
    assert changed >= 4


@pytest.mark.parametrize("questions", [QUESTIONS, LONG_QUESTIONS], ids=["short", "long"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_a_mixed_batch_equals_one_by_one(kv_heads, attn_implementation, questions):
    backbone = tiny_llava(
        grid=GRID, num_key_value_heads=kv_heads, attn_implementation=attn_implementation
    )
    batch = answer_batch(backbone, list(questions.values()), Scripted(), max_new_tokens=N_NEW)
    for (name, question), found in zip(questions.items(), batch, strict=True):
        (alone,) = answer_batch(backbone, [question], Scripted(), max_new_tokens=N_NEW)
        assert found.ids == alone.ids, name
        assert found.text == alone.text
        assert found.outcome == alone.outcome
        assert found.boxes == alone.boxes
        assert found.n_visual_tokens == alone.n_visual_tokens


def test_a_plain_batch_equals_one_by_one(backbone):
    batch = answer_batch(backbone, list(QUESTIONS.values()), max_new_tokens=N_NEW)
    for question, found in zip(QUESTIONS.values(), batch, strict=True):
        assert found.ids == recompute(backbone, question, None)[0]


def test_outcomes(backbone):
    found = {
        name: answer_batch(backbone, [question], Scripted(), max_new_tokens=1)[0]
        for name, question in QUESTIONS.items()
    }
    assert {name: one.outcome for name, one in found.items()} == {
        "ok": Outcome.OK,
        "two crops": Outcome.OK,
        "too many": Outcome.TOO_MANY,
        "nothing": Outcome.NO_ROI,
        "no image": None,
        "both": Outcome.OK,
        "first only": Outcome.OK,
        "second only": Outcome.OK,
    }
    outcomes = [p.plan.outcome for p in found["second only"].proposals]
    assert outcomes == [Outcome.TOO_MANY, Outcome.OK]
    assert found["no image"].proposals == ()
    assert found["nothing"].proposals[0].plan.reason


def test_mask_crops_keep_only_the_tokens_of_the_region(backbone):
    proposer = Scripted(MaskPolicy())
    for name in ("two crops", "too many", "both"):
        (found,) = answer_batch(backbone, [QUESTIONS[name]], proposer, max_new_tokens=N_NEW)
        ids, n_visual_tokens = recompute(backbone, QUESTIONS[name], proposer)
        assert found.ids == ids
        assert found.n_visual_tokens == n_visual_tokens
    # "both" crops one image by its box and masks the other.
    keeps = [crop.keep is None for p in found.proposals for crop in p.plan.crops]
    assert keeps == [True, False]
    assert 3 * GRID**2 < found.n_visual_tokens < 4 * GRID**2


def test_max_ratio_resizes_the_tokens_of_a_crop(backbone):
    proposer = Scripted(BboxPolicy(max_ratio=1.0))
    for name in ("ok", "two crops", "both"):
        (found,) = answer_batch(backbone, [QUESTIONS[name]], proposer, max_new_tokens=N_NEW)
        ids, n_visual_tokens = recompute(backbone, QUESTIONS[name], proposer)
        assert found.ids == ids
        sizes = [crop.grid_box for p in found.proposals for crop in p.plan.crops]
        cells = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in sizes)
        images = len(QUESTIONS[name].images)
        assert found.n_visual_tokens == n_visual_tokens == images * GRID**2 + cells


def test_an_rpn_is_a_proposer(backbone):
    policy = BboxPolicy(threshold=0.5, max_area_fraction=1, max_crops=9)
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=3, head_options={"rope": False})
    proposer = RPNProposer(rpn, policy)
    outcomes = set()
    for seed in range(4):
        question = Question("which letter is near the dot ?", (tiny_image(seed, (80, 60)),))
        found = answer(
            backbone,
            question.images[0],
            question.text,
            rpn=rpn,
            policy=policy,
            max_new_tokens=N_NEW,
        )
        assert found.ids == recompute(backbone, question, proposer)[0]
        assert found.proposals[0].roi.grid == (GRID, GRID)
        outcomes.add(found.outcome)
    assert Outcome.OK in outcomes


def test_the_rpns_own_policy_is_the_default(backbone):
    rpn = RPN.from_backbone(
        backbone,
        branch=2,
        n_layers=2,
        policy="mask",
        policy_options={"threshold": 0.6, "min_regions": 1},
    )
    assert RPNProposer(rpn).policy == MaskPolicy(threshold=0.6, min_regions=1)


def test_an_rpn_leaves_a_question_without_images_alone(backbone):
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2)
    question = QUESTIONS["no image"]
    (found,) = answer_batch(backbone, [question], RPNProposer(rpn), max_new_tokens=N_NEW)
    assert found.ids == recompute(backbone, question, None)[0]
    assert (found.outcome, found.n_visual_tokens) == (None, 0)


@pytest.fixture
def recipe():
    return LabelRecipe(grounding={4: (0, 1)}, sink={2: "all"}, sink_threshold=0.2)


def test_attention_crops_where_the_plain_answer_looks(backbone, recipe):
    policy = BboxPolicy(threshold=0.6, relative=True, max_area_fraction=1, max_crops=9)
    proposer = AttentionProposer(recipe, policy, max_new_tokens=N_NEW)
    question = QUESTIONS["both"]
    (found,) = answer_batch(backbone, [question], proposer, max_new_tokens=N_NEW)
    assert [p.roi.kind for p in found.proposals] == ["distribution", "distribution"]
    assert found.outcome is Outcome.OK
    assert found.ids == recompute(backbone, question, proposer)[0]


def test_attention_leaves_the_prefixes_as_they_were(backbone, recipe):
    proposer = AttentionProposer(recipe, BboxPolicy(relative=True), max_new_tokens=N_NEW)
    questions = list(QUESTIONS.values())
    state = prefill(backbone, questions, proposer.reader)
    before = [layer.keys.clone() for layer in state.cache().layers]
    proposals = proposer.propose(state)
    assert [len(row) for row in proposals] == [len(q.images) for q in questions]
    for layer, keys in zip(state.cache().layers, before, strict=True):
        assert torch.equal(layer.keys, keys)


def test_attention_of_an_empty_answer_proposes_nothing(recipe):
    backbone = tiny_llava(grid=GRID)
    (plain,) = answer_batch(backbone, [QUESTIONS["ok"]], max_new_tokens=1)
    backbone.model.generation_config.eos_token_id = plain.ids[0]
    proposer = AttentionProposer(recipe, BboxPolicy(relative=True), max_new_tokens=N_NEW)
    (found,) = answer_batch(backbone, [QUESTIONS["ok"]], proposer, max_new_tokens=N_NEW)
    assert (found.outcome, found.text, found.ids) == (Outcome.NO_ROI, "", ())
    assert found.proposals[0].roi is None


def test_fields_of_an_answer(backbone):
    (found,) = answer_batch(backbone, [QUESTIONS["ok"]], Scripted(), max_new_tokens=N_NEW)
    assert found.text == backbone.tokenizer.decode(found.ids, skip_special_tokens=True).strip()
    assert found.seconds.keys() == {
        "vision",
        "prefix",
        "proposal",
        "crop",
        "roi_prefill",
        "decode",
    }
    assert all(seconds > 0 for seconds in found.seconds.values())
    ((x0, y0, x1, y1),) = found.boxes
    width, height = IMAGES[0].size
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    (plain,) = answer_batch(backbone, [QUESTIONS["ok"]], max_new_tokens=2)
    assert plain.seconds.keys() == {"vision", "prefill", "decode"}
    assert (plain.outcome, plain.boxes) == (None, [])


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"num_beams": 2}, "one response"),
        ({"prompt_lookup_num_tokens": 2}, "consists of embeddings"),
        ({"cache_config": {}}, "sdrpn sets it"),
        ({"return_dict_in_generate": True}, "holds the token ids"),
        ({"generation_config": GenerationConfig(num_beams=2)}, "give its values as arguments"),
    ],
    ids=str,
)
def test_options_that_would_break_an_answer_are_refused(backbone, option, reason):
    message = f"option '{next(iter(option))}' cannot be used here: .*{reason}"
    for proposer in (None, Scripted()):
        with pytest.raises(ConfigError, match=message):
            answer_batch(backbone, [QUESTIONS["ok"]], proposer, **option)
        with pytest.raises(ConfigError, match=message):
            next(answer_stream(backbone, [QUESTIONS["ok"]], proposer, **option))


@pytest.mark.parametrize(
    "name",
    [
        "streamer",
        "logits_processor",
        "stopping_criteria",
        "prefix_allowed_tokens_fn",
        "generation_config",
        "assistant_model",
        "attention_mask",
    ],
)
def test_none_means_that_an_option_is_not_given(backbone, name):
    question = QUESTIONS["ok"]
    plain, cropped = (recompute(backbone, question, one)[0] for one in (None, Scripted()))
    options = {name: None, "max_new_tokens": N_NEW}
    (found,) = answer_batch(backbone, [question], **options)
    assert found.ids == plain
    (found,) = answer_batch(backbone, [question], Scripted(), **options)
    assert found.ids == cropped
    for _, found in answer_stream(backbone, [question], Scripted(), **options):
        assert found.ids == cropped
    sure = {"confidence_threshold": 1e-9}
    (found,) = answer_batch(backbone, [question], Scripted(), **sure, **options)
    assert found.ids == plain


@pytest.mark.parametrize("n_tokens", [0, -3])
@pytest.mark.parametrize("options", [{}, {"confidence_threshold": 0.5}], ids=str)
@pytest.mark.parametrize("questions", [QUESTIONS, LONG_QUESTIONS], ids=["short", "long"])
def test_an_answer_has_a_token(backbone, questions, options, n_tokens):
    message = f"^max_new_tokens must be a whole number of at least 1, not {n_tokens}$"
    asked = [questions["ok"]]
    for proposer in (Scripted(), None)[: 2 - len(options)]:
        with pytest.raises(ConfigError, match=message):
            answer_batch(backbone, asked, proposer, max_new_tokens=n_tokens, **options)
        with pytest.raises(ConfigError, match=message):
            next(answer_stream(backbone, asked, proposer, max_new_tokens=n_tokens, **options))


@pytest.mark.parametrize("proposer", [None, Scripted()])
def test_a_question_with_a_response_is_refused(backbone, proposer):
    answered = replace(QUESTIONS["ok"], response_ids=(3, 4))
    with pytest.raises(InputError, match="comes with a response"):
        answer_batch(backbone, [answered], proposer)


def test_a_checkpoint_that_asks_for_beams_answers_greedily(backbone, monkeypatch):
    expected = answer_batch(backbone, [QUESTIONS["ok"]], Scripted(), max_new_tokens=N_NEW)[0].ids
    monkeypatch.setattr(backbone.model.generation_config, "num_beams", 3)
    found = answer_batch(backbone, [QUESTIONS["ok"]], Scripted(), max_new_tokens=N_NEW)[0].ids
    assert found == expected


class Collector(BaseStreamer):
    def __init__(self):
        self.ids, self.ended = [], False

    def put(self, value):
        self.ids.extend(value.flatten().tolist())

    def end(self):
        self.ended = True


@pytest.mark.parametrize("proposer", [None, Scripted()])
def test_tokens_are_streamed_as_they_come(backbone, proposer):
    streamer = Collector()
    (found,) = answer_batch(
        backbone, [QUESTIONS["ok"]], proposer, max_new_tokens=N_NEW, streamer=streamer
    )
    assert streamer.ended
    end = backbone.model.generation_config.eos_token_id
    assert tuple(token for token in streamer.ids if token != end) == found.ids
    assert found.ids


def test_the_end_token_ends_an_answer_on_a_cached_prefix():
    backbone = tiny_llava(grid=GRID)
    questions = [QUESTIONS["both"], QUESTIONS["ok"]]
    backbone.model.generation_config.eos_token_id = None
    free = answer_batch(backbone, questions, Scripted(), max_new_tokens=N_NEW)
    end = free[0].ids[2]
    backbone.model.generation_config.eos_token_id = end
    found = answer_batch(backbone, questions, Scripted(), max_new_tokens=N_NEW)
    assert len(found[0].ids) < N_NEW
    for one, old in zip(found, free, strict=True):
        assert one.ids == old.ids[: old.ids.index(end) if end in old.ids else None]


def test_an_empty_batch_has_no_answers(backbone):
    assert answer_batch(backbone, []) == []
    assert answer_batch(backbone, [], Scripted()) == []


def test_images_come_as_files_bytes_or_lists(backbone, tmp_path):
    path = tmp_path / "image.png"
    IMAGES[0].save(path)
    text = "what color is the square ?"
    expected = answer(backbone, IMAGES[0], text, max_new_tokens=N_NEW)
    for source in (path, str(path), path.read_bytes(), [path], (IMAGES[0],)):
        assert answer(backbone, source, text, max_new_tokens=N_NEW).ids == expected.ids


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_refused(backbone, question):
    with pytest.raises(InputError, match="the question is empty"):
        answer(backbone, IMAGES[0], question)


def test_a_list_without_images_is_refused(backbone):
    with pytest.raises(InputError, match="no image"):
        answer(backbone, [], "how many ?")


def test_an_image_that_is_none_is_refused(backbone, tmp_path):
    with pytest.raises(ImageError):
        answer(backbone, tmp_path / "missing.png", "how many ?")


@pytest.mark.parametrize("proposer", [None, Scripted()])
def test_a_prompt_beyond_the_context_is_refused(proposer):
    small = tiny_llava(grid=GRID, max_position_embeddings=100)
    with pytest.raises(InputError, match="exceeds the context of 100 tokens of tiny-llava-0"):
        answer_batch(small, [QUESTIONS["both"]], proposer, max_new_tokens=N_NEW)


def test_crops_beyond_the_context_are_refused():
    question = QUESTIONS["two crops"]
    small = tiny_llava(grid=GRID, max_position_embeddings=130)
    assert answer_batch(small, [question], max_new_tokens=N_NEW)
    with pytest.raises(InputError, match="exceeds the context of 130"):
        answer_batch(small, [question], Scripted(), max_new_tokens=N_NEW)


def n_hooks(backbone):
    modules = list(backbone.model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_the_backbone_is_as_before(backbone):
    state = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    backbone.encode(list(QUESTIONS.values()))  # transformers adds hooks of its own on first use
    hooks = n_hooks(backbone)
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2)
    answer_batch(backbone, list(QUESTIONS.values()), RPNProposer(rpn), max_new_tokens=2)
    assert n_hooks(backbone) == hooks
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())

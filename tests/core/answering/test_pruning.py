"""High-resolution rules: sinks in the corner, and tokens of the whole image that are dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.prefix_store import PrefixStore
from sdrpn_core.answering.pruning import without_costly_pruning
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.answering.token_layers import AnswerShape, TokenLayerCounter
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.crops.policy import Crop, CropPlan, Outcome
from sdrpn_core.crops.regions import without_corner
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.grid.geometry import Resized
from sdrpn_core.grid.roi_map import RoIMap, gaussian_blur
from sdrpn_core.rpn.model import RPN
from sdrpn_core.runtime.generation import generate, prompt_block
from sdrpn_qwen2_5_vl.backbone import Qwen2_5VLBackbone
from tests.tiny import tiny_image, tiny_llava
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

GRID = (8, 12)
GEOMETRY = Resized((336, 224), GRID, 28)
POLICIES = (BboxPolicy, MaskPolicy)


def peaked(row: int, column: int) -> np.ndarray:
    scores = np.full(GRID, -9.0, dtype=np.float32)
    scores[row : row + 2, column : column + 2] = 9.0
    return scores


# -- the corner ----------------------------------------------------------------------------------


def test_the_corner_is_a_quarter_of_the_first_row_and_column():
    values = np.ones(GRID, dtype=np.float32)
    found = without_corner(values)
    assert (found[0] == 0).tolist() == [True] * 3 + [False] * 9
    assert (found[:, 0] == 0).tolist() == [True] * 2 + [False] * 6
    assert found.sum() == values.size - 4
    assert values.all()  # a copy
    assert (without_corner(-values) == -1).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_the_corner_counts_on_grids_above_the_limit_only(policy):
    roi = RoIMap(peaked(0, 0))
    at = policy(corner_sink_above=96)
    assert np.array_equal(at.smoothed(roi), policy().smoothed(roi))
    below = policy(corner_sink_above=95)
    cleaned = without_corner(roi.probabilities())
    assert np.array_equal(below.smoothed(roi), gaussian_blur(cleaned))
    assert below.above(roi).sum() < at.above(roi).sum()
    # The blur reaches back into the corner from the cell beside it.
    assert below.smoothed(roi)[0, 0] > 0


def test_a_corner_of_raw_scores_is_never_raised():
    rule = BboxPolicy(relative=True, blur=False, corner_sink_above=0)
    scores = peaked(0, 0)
    scores[0, 1] = -20
    found = rule.smoothed(RoIMap(scores))
    assert found[0, 0] == 0
    assert found[0, 1] == -20


# -- the plan ------------------------------------------------------------------------------------


def roi_with_question(threshold_cells: int) -> RoIMap:
    question = np.full(GRID, -9.0, dtype=np.float32)
    question.flat[:threshold_cells] = 3.0
    return RoIMap(peaked(3, 5), question_scores=question)


@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_stay_where_a_token_of_the_question_asks_for_them(policy):
    roi = roi_with_question(20)
    plan = policy(prune_above=95).plan(roi, GEOMETRY)
    assert plan.outcome is Outcome.OK
    assert np.array_equal(plan.keep, roi.question_probabilities() > 0.01)
    assert plan.keep.sum() == 20
    assert policy(prune_above=95, prune_threshold=0.99).plan(roi, GEOMETRY).keep.sum() == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_pruned(policy):
    """By default, at the limit, without scores by question, and without a crop."""
    roi = roi_with_question(20)
    for chosen, seen in (
        (policy(), roi),
        (policy(prune_above=96), roi),
        (policy(prune_above=95), RoIMap(roi.scores)),
        (policy(prune_above=95, threshold=0.999999), roi),
    ):
        assert chosen.plan(seen, GEOMETRY).keep is None
    assert not policy().needs_question_scores((999, 999))
    assert not policy(prune_above=96).needs_question_scores(GRID)
    assert policy(prune_above=95).needs_question_scores(GRID)


def test_options_survive_a_checkpoint_and_keep_their_order():
    policy = MaskPolicy(
        prune_above=1024, corner_sink_above=768, min_regions=1, prune_rule="published"
    )
    assert MaskPolicy.from_options(policy.options()) == policy
    assert BboxPolicy(0.3).threshold == 0.3


@pytest.mark.parametrize(
    "options",
    [
        {"prune_above": -1},
        {"prune_threshold": 0},
        {"prune_threshold": 1},
        {"corner_sink_above": -1},
        {"prune_rule": "sometimes"},
    ],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_values_out_of_range_are_refused(policy, options):
    (name,) = options
    with pytest.raises(ConfigError, match=name):
        policy(**options)


def test_a_map_checks_its_scores_by_question():
    with pytest.raises(InputError, match=r"question scores of shape \(1, 2\)"):
        RoIMap(peaked(0, 0), question_scores=np.zeros((1, 2)))
    with pytest.raises(InputError, match="no scores by the tokens"):
        RoIMap(peaked(0, 0)).question_probabilities()


# -- the scores ----------------------------------------------------------------------------------

SMALL, LARGE = tiny_image(1, (60, 60)), tiny_image(2, (240, 180))
QUESTIONS = (
    Question("what color is the square ?", (LARGE,)),
    Question("how many ?", (SMALL,)),
    Question("which letter is on the left of the small circle ?", (SMALL, LARGE)),
    Question("what is it ?", (LARGE, SMALL)),
    Question("which word ?"),
)
#: The first question runs along with its prefix, the second apart from it.
SHORT_AND_LONG = tuple(
    Question(text, (tiny_image(2, (900, 700)),))
    for text in ("how many ?", "which letter is on the left of the small circle ?")
)
short_and_long = pytest.mark.parametrize("question", SHORT_AND_LONG, ids=["short", "long"])
#: Between the grids of the two images.
LIMIT = 20


@pytest.fixture(scope="module", params=[tiny_qwen2_5_vl, tiny_llava], ids=["own grids", "one grid"])
def backbone(request):
    if request.param is tiny_llava:
        return tiny_llava(grid=5)
    return tiny_qwen2_5_vl()


@pytest.fixture(scope="module")
def rpn(backbone):
    return RPN.from_backbone(backbone, branch=2, n_layers=2)


@torch.no_grad()
def test_keys_are_computed_once_for_all_tokens_of_a_question(backbone, rpn, monkeypatch):
    """However many of them ask, and though their products may take several passes."""
    state = prefill(backbone, QUESTIONS, rpn)
    features, readings = state.question_features(2), state.readings(rpn)
    places = state.places(wants_question=lambda _, grid: grid[0] * grid[1] > LIMIT)
    calls: list[tuple[int, ...]] = []
    hook = rpn.head.attention.k_proj.register_forward_hook(
        lambda module, inputs, output: calls.append(tuple(output.shape))
    )
    try:
        whole = rpn.score_after(readings, features, places).maps()
        once = list(calls)
        monkeypatch.setattr("sdrpn_core.rpn.qk_head._MAX_PRODUCTS", 1)
        pieces = rpn.score_after(readings, features, places).maps()
    finally:
        hook.remove()
    assert any(roi.question_scores is not None for roi in whole)
    assert calls[len(once) :] == once  # in pieces, no more keys are computed
    # For the maps of each size of images, and once more per image for its question's scores.
    assert len(once) <= len(places) + 2
    n_question = sum(len(prompt) - prompt.prefix_length for prompt in state.prompts)
    assert n_question > 4 * len(once)  # which is what one call per token would make
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6, rtol=0)
        if one.question_scores is not None:
            np.testing.assert_allclose(
                one.question_scores, other.question_scores, atol=1e-6, rtol=0
            )


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"head": "conv"}, {"loss": "mse"}])
def test_the_highest_score_of_any_token_behind_the_last_image(backbone, settings):
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2, **settings)
    state = prefill(backbone, QUESTIONS, rpn)
    features, readings = state.question_features(2), state.readings(rpn)
    places = state.places(wants_question=lambda _, grid: grid[0] * grid[1] > LIMIT)
    found = rpn.score_after(readings, features, places).maps()
    seen = 0
    for place, roi in zip(places, found, strict=True):
        if roi.question_scores is None:
            assert place.n_tokens <= LIMIT
            continue
        prompt = state.prompts[place.row]
        n_question = len(prompt) - prompt.prefix_length
        single = [
            rpn.score_after(
                readings, features, [replace(place, query=place.query - back, question=None)]
            ).maps()[0]
            for back in range(n_question)
        ]
        np.testing.assert_allclose(single[0].scores, roi.scores, atol=1e-5, rtol=0)
        highest = np.max([one.scores for one in single], axis=0)
        np.testing.assert_allclose(roi.question_scores, highest, atol=1e-5, rtol=0)
        assert (highest > roi.scores + 1e-6).any()
        seen += 1
    assert seen


# -- the answer ----------------------------------------------------------------------------------


def policy_for(**options) -> MaskPolicy:
    values = {"threshold": 0.5, "prune_threshold": 0.9, "prune_rule": "published", **options}
    return MaskPolicy(min_regions=1, prune_above=LIMIT, **values)


def recompute(backbone, question, answer, max_new_tokens):
    """The same sequence without any cache."""
    (prompt,) = backbone.encode([question])
    jobs = [
        (image, proposal.plan)
        for image, proposal in zip(question.images, answer.proposals, strict=True)
    ]
    crops = tuple(
        tuple(part for segment in segments for part in backbone.frame_crop(segment))
        for _, segments in encode_crops(backbone, jobs)
    )
    prompt = prompt.pruned(tuple(plan.keep for _, plan in jobs)).with_crops(crops)
    assert prompt.n_visual_tokens == answer.n_visual_tokens
    (ids,) = generate(backbone, prompt_block(backbone, [prompt]), max_new_tokens=max_new_tokens)
    return ids


def test_pruned_and_whole_rows_in_one_batch(backbone, rpn):
    proposer = RPNProposer(rpn, policy_for())
    together = answer_batch(backbone, QUESTIONS, proposer, max_new_tokens=6)
    for question, found in zip(QUESTIONS, together, strict=True):
        (alone,) = answer_batch(backbone, [question], proposer, max_new_tokens=6)
        assert (found.ids, found.boxes, found.outcome) == (alone.ids, alone.boxes, alone.outcome)
        assert found.ids == recompute(backbone, question, found, 6)
    plans = [proposal.plan for answer in together for proposal in answer.proposals]
    pruned = [plan.keep for plan in plans if plan.keep is not None]
    assert pruned
    assert any(0 < keep.sum() < keep.size for keep in pruned)


@short_and_long
def test_pruning_changes_what_is_seen(backbone, rpn, question):
    whole = MaskPolicy(threshold=0.5, min_regions=1)
    (pruned,) = answer_batch(backbone, [question], RPNProposer(rpn, policy_for()))
    (kept,) = answer_batch(backbone, [question], RPNProposer(rpn, whole))
    assert pruned.boxes == kept.boxes
    dropped = int((~pruned.proposals[0].plan.keep).sum())
    assert kept.n_visual_tokens - pruned.n_visual_tokens == dropped > 0


class ImageFirst(Qwen2_5VLBackbone):
    """Nothing comes before the image: not a token of the prefix survives its pruning."""

    def chat_text(self, question: str, n_images: int) -> str:
        return "<|image_pad|>" * n_images + question


@short_and_long
def test_an_image_in_front_of_everything(question):
    tiny = tiny_qwen2_5_vl()
    backbone = ImageFirst(tiny.model, tiny.processor)
    rpn = RPN.from_backbone(backbone, branch=2, n_layers=2)
    proposer = RPNProposer(rpn, replace(policy_for(), threshold=0.3))
    (found,) = answer_batch(backbone, [question], proposer, max_new_tokens=6)
    assert found.proposals[0].plan.keep is not None
    assert found.ids == recompute(backbone, question, found, 6)


@short_and_long
def test_an_image_of_which_nothing_stays(backbone, rpn, question):
    """All of its own tokens dropped: the crop alone is left."""
    policy = replace(policy_for(), prune_threshold=0.9999999)
    (found,) = answer_batch(backbone, [question], RPNProposer(rpn, policy), max_new_tokens=6)
    assert not found.proposals[0].plan.keep.any()
    assert found.ids == recompute(backbone, question, found, 6)


# -- where pruning pays --------------------------------------------------------------------------

TWO_IMAGES = Question("which letter is on the left of the small circle ?", (LARGE, LARGE))


def counted(backbone, rpn, question, **options):
    """An answer of one token, and the token-layers of the decoder."""
    proposer = RPNProposer(rpn, policy_for(**options))
    store = PrefixStore()  # the question runs apart, however short it is
    with TokenLayerCounter(backbone) as counter:
        (found,) = answer_batch(backbone, [question], proposer, store=store, max_new_tokens=1)
    assert found.boxes
    return found, counter.token_layers


@torch.no_grad()
def shape_of(backbone, question, answer, rerun):
    (prompt,) = backbone.encode([question])
    plans = [one.plan for one in answer.proposals]
    dropped = sum(int((~plan.keep).sum()) for plan in plans if plan.keep is not None)
    visual = answer.n_visual_tokens - prompt.n_visual_tokens + dropped
    frame = backbone.frame_crop(prompt.images[0])
    n_text = len(answer.boxes) * (sum(map(len, frame)) - len(prompt.images[0]))
    prefix = prompt.prefix_length
    return AnswerShape(prefix, len(prompt) - prefix, crop=visual + n_text, rerun=rerun - dropped)


@pytest.mark.parametrize("threshold", [1e-9, 0.5, 0.9, 0.9999999])
def test_one_image_never_runs_again(backbone, rpn, threshold):
    """Whether nothing, something or all of it would be dropped; as published, it always does."""
    question = Question(TWO_IMAGES.text, (LARGE,))
    kept, work = counted(backbone, rpn, question, prune_rule="cheaper", prune_threshold=threshold)
    assert kept.proposals[0].plan.keep is None
    assert kept.proposals[0].roi.question_scores is None  # nor are they computed
    n_layers = backbone.n_layers
    assert work == shape_of(backbone, question, kept, 0).floor(n_layers, rpn.branch)
    assert kept.ids == recompute(backbone, question, kept, 1)
    pruned, more = counted(backbone, rpn, question, prune_threshold=threshold)
    n_image = pruned.proposals[0].plan.keep.size
    assert more == shape_of(backbone, question, pruned, n_image).floor(n_layers, rpn.branch)
    assert more - work == int(pruned.proposals[0].plan.keep.sum()) * n_layers


def test_an_image_behind_a_crop_is_pruned(backbone, rpn):
    """It runs again as it is: every token that is dropped is saved."""
    options = {"threshold": 0.3, "prune_threshold": 0.85}
    cheaper = {**options, "prune_rule": "cheaper"}
    found, work = counted(backbone, rpn, TWO_IMAGES, **cheaper)
    first, second = (one.plan.keep for one in found.proposals)
    assert first is None
    assert second is not None
    assert 0 < second.sum() < second.size
    assert found.ids == recompute(backbone, TWO_IMAGES, found, 1)
    _, unpruned = counted(backbone, rpn, TWO_IMAGES, **{**cheaper, "prune_threshold": 1e-9})
    assert unpruned - work == int((~second).sum()) * backbone.n_layers
    _, published = counted(backbone, rpn, TWO_IMAGES, **options)
    assert published > work


@torch.no_grad()
def test_nothing_is_pruned_for_nothing(backbone):
    """A second image of which every token stays, and one whose neighbor has no crop."""
    (prompt,) = backbone.encode([TWO_IMAGES])
    keep = np.ones(prompt.images[0].grid, dtype=bool)
    crop = (Crop((0, 0, 9, 9), (0, 0, 1, 1)),)
    some = keep.copy()
    some.flat[0] = False
    nothing = CropPlan(Outcome.NO_ROI)
    for plans, expected in (
        ([CropPlan(Outcome.OK, crop, keep=some), CropPlan(Outcome.OK, crop, keep=keep)], [0, 0]),
        ([CropPlan(Outcome.OK, crop, keep=some), CropPlan(Outcome.OK, crop, keep=some)], [0, 1]),
        ([nothing, CropPlan(Outcome.OK, crop, keep=some)], [0, 0]),
        ([CropPlan(Outcome.OK, crop), CropPlan(Outcome.OK, crop, keep=~keep)], [0, 1]),
    ):
        chosen = without_costly_pruning(prompt, plans, backbone.n_layers)
        assert [plan.keep is not None for plan in chosen] == expected
        always = [replace(plan, prunes_at_any_cost=True) for plan in plans]
        assert without_costly_pruning(prompt, always, backbone.n_layers) == always

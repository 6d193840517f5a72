"""LLaVA: the plain answer, the tapped states and the RoI maps, against the published numbers."""

from __future__ import annotations

import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from sdrpn_core import FeatureTap, RoIMap
from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.prefill import prefill
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.policy import CropPolicy
from sdrpn_core.grid.roi_map import gaussian_blur
from sdrpn_core.runtime.generation import prompt_block
from tests.golden.llava import PLAIN_LOGITS, golden_rpn, question_of
from tests.golden.runs import run, until_end
from tests.readers import KeepsHidden

STATES = 1e-4
#: README, per way of scoring: the values span -45 to 16, 16 times that, and 0 to 1.
MAPS = 5e-4
SINGLE_HEAD_MAPS = 1e-2
DISTRIBUTIONS = 1e-5
PROBABILITIES = 5e-5

samples = pytest.mark.golden_files("llava/samples/*.npz")


@pytest.fixture
def sample(golden_file, load):
    return load(golden_file)


@pytest.fixture
def question(llava_folder, sample):
    return question_of(llava_folder, sample)


@samples
def test_plain_answer(llava, sample, question):
    """The reference's generate puts a start token in front of the ids; stock generate does not."""
    assert question.images[0].size == tuple(sample["size_wh"])
    expected = until_end(llava, sample["base_ids"])
    result = run(llava, question, None, len(sample["base_ids"]))
    assert result.answer.ids == expected
    assert result.answer.proposals == ()
    np.testing.assert_allclose(result.logits[0], sample["base_logits0"], atol=PLAIN_LOGITS, rtol=0)
    margins = sample["base_margin"][: len(result.margins)]
    np.testing.assert_allclose(result.margins, margins, atol=2 * PLAIN_LOGITS, rtol=0)
    length = int(sample["base_seq_len"])
    np.testing.assert_array_equal(result.positions[0], np.arange(length))


@samples
def test_plain_forward(llava, sample, question):
    (prompt,) = llava.encode([question])
    assert len(prompt) == sample["base_seq_len"]
    expected = sample["base_all_logits_last4"]
    block = prompt_block(llava, [prompt])
    with torch.no_grad():
        logits = llava.model(
            inputs_embeds=block.embeds,
            attention_mask=block.mask,
            position_ids=block.positions,
            logits_to_keep=len(expected),
        ).logits
    np.testing.assert_allclose(logits[0].numpy(), expected, atol=PLAIN_LOGITS, rtol=0)


@samples
def test_tapped_states(llava, llava_rpn, sample, question):
    """At the branch layer, in one pass and in the two that share a cache; then behind the norm."""
    reader = KeepsHidden(llava_rpn.branch)
    state = prefill(llava, [question], reader)
    ((start, _),) = state.prompts[0].image_spans
    places = [*(start + sample["vis_idx"]), -1]
    (kept,) = state.readings(reader)
    pieces = torch.cat([kept, state.question_features(llava_rpn.branch).hidden[0]])
    block = prompt_block(llava, state.prompts)
    with torch.no_grad(), FeatureTap(llava.decoder, llava_rpn.config.branch) as tap:
        whole = tap.run(
            inputs_embeds=block.embeds, attention_mask=block.mask, position_ids=block.positions
        )
    expected = np.concatenate([sample["hK_vis"], sample["hK_last"][None]])
    for hidden in (whole.hidden[0], pieces):
        np.testing.assert_allclose(hidden[places].numpy(), expected, atol=STATES, rtol=0)

    expected = np.concatenate([sample["twig_normed_vis"], sample["twig_normed_last"][None]])
    for score in (
        lambda: llava_rpn(whole, state.places()),
        lambda: RPNProposer(llava_rpn).maps(prefill(llava, [question], llava_rpn)),
    ):
        with torch.no_grad(), outputs_of(llava_rpn.norm) as normed:
            score()
        hidden = torch.cat(normed, dim=1)
        np.testing.assert_allclose(hidden[0, places].numpy(), expected, atol=STATES, rtol=0)


@contextmanager
def outputs_of(module):
    outputs = []
    handle = module.register_forward_hook(lambda _, args, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("name", "overrides", "tolerance"),
    [
        ("roi_logits", {}, MAPS),
        ("roi_map_singlehead", {"head_options": {"multi_head": False}}, SINGLE_HEAD_MAPS),
        ("roi_map_mse", {"loss": "mse"}, DISTRIBUTIONS),
    ],
)
@samples
def test_roi_maps(llava_folder, any_llava, sample, question, name, overrides, tolerance):
    rpn = golden_rpn(llava_folder, any_llava, **overrides)
    roi = roi_map(any_llava, rpn, question)
    np.testing.assert_allclose(roi.scores, sample[name], atol=tolerance, rtol=0)
    assert roi.kind == ("distribution" if name == "roi_map_mse" else "logit")
    if name == "roi_logits":
        blurred = gaussian_blur(roi.probabilities())
        np.testing.assert_allclose(blurred, sample["roi_prob_blurred"], atol=PROBABILITIES, rtol=0)


def roi_map(backbone, rpn, question) -> RoIMap:
    (roi,) = RPNProposer(rpn).maps(prefill(backbone, [question], rpn))
    return roi


@samples
def test_crops_from_our_map_at_every_threshold(llava, llava_rpn, sample, question):
    """No cell changes sides between our map and the published one.

    What a policy makes of the published map is compared with the published boxes in test_boxes.
    """
    roi = roi_map(llava, llava_rpn, question)
    geometry = llava.preprocess(question.images[0]).geometry
    thresholds = [float(m[1]) for name in sample if (m := re.fullmatch(r"boxes_t(.+)", name))]
    if not thresholds:
        pytest.skip("this sample has no boxes")
    for threshold in thresholds:
        policy = BboxPolicy(threshold=abs(threshold), relative=threshold < 0)
        assert crops_of(policy, roi, geometry) == crops_of(
            policy, RoIMap(sample["roi_logits"]), geometry
        )
        ours, theirs = (policy.above(r) for r in (roi, RoIMap(sample["roi_logits"])))
        np.testing.assert_array_equal(ours, theirs)


def crops_of(policy: CropPolicy, roi, geometry):
    plan = policy.plan(roi, geometry)
    return plan.outcome, [(crop.grid_box, crop.box) for crop in plan.crops]


@samples
def test_regions_of_our_softmax_map(llava_folder, llava, sample, question):
    rpn = golden_rpn(llava_folder, llava, loss="mse")
    roi = roi_map(llava, rpn, question)
    names = [name for name in sample if name.startswith("mse_boxes_t")]
    if not names:
        pytest.skip("this sample has no boxes of its softmax map")
    for name in names:
        threshold = float(name.removeprefix("mse_boxes_t"))
        policy = BboxPolicy(threshold=abs(threshold), relative=threshold < 0)
        published = RoIMap(sample["roi_map_mse"], "distribution")
        np.testing.assert_array_equal(policy.above(roi), policy.above(published))


def test_all_samples_in_one_batch(llava, llava_folder, load):
    """Prompts of different lengths side by side give the answers that they give alone."""
    data = [load(path) for path in sorted((llava_folder / "samples").glob("*.npz"))]
    if not data:
        pytest.skip("no samples")
    n_tokens = len(data[0]["base_ids"])
    questions = [question_of(llava_folder, sample) for sample in data]
    answers = answer_batch(llava, questions, max_new_tokens=n_tokens)
    expected = [until_end(llava, sample["base_ids"]) for sample in data]
    assert [answer.ids for answer in answers] == expected

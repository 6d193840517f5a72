"""LLaVA: the two-stage answer, against the published numbers.

Every published run is checked twice. First the published boxes go in as they are: that must give
every published number, the empty box's black crop included. Then our own plan, through the RPN:
where it is the published one, so is the answer. Where it is not, the difference must be one of the
two corrections of docs/fidelity.md, and the answer that of the plain model on that sequence.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import PIL
import pytest

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.crops.policy import Crop, CropPlan, Outcome
from sdrpn_core.grid.roi_map import RoIMap
from sdrpn_core.runtime.generation import generate, prompt_block
from tests.golden.forced_maps import forced_case, in_forced_maps
from tests.golden.llava import LOGITS, BlackCropLlava, block_means, question_of, sample_file
from tests.golden.runs import MapProposer, PlanProposer, run, until_end

MAX_CROPS = 2
CROP_MEANS = 1e-5
INSERTED = 2e-3

#: Older ones, which Python 3.10 is left with, round single pixels to the next gray level.
same_pixels = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="the published crops were resized by Pillow 13"
)


def policy_for(is_mask, threshold, ratio):
    """The published settings: a negative threshold is relative, and its mask is full.

    A ratio of -1 keeps all tokens.
    """
    rule = {"threshold": abs(threshold), "relative": threshold < 0}
    if is_mask:
        return MaskPolicy(**rule, whole_grid=rule["relative"])
    return BboxPolicy(**rule, max_ratio=ratio if ratio > 0 else None)


def boxes_of(rows):
    return [tuple(row) for row in np.asarray(rows).reshape(-1, 4).tolist()]


def is_empty(box):
    return box[0] >= box[2] or box[1] >= box[3]


def published_plan(policy, scores, boxes, source_boxes, geometry):
    """The plan that the published code follows."""
    if is_masked(policy, boxes):
        above = policy.above(RoIMap(scores))
        mask = np.ones_like(above) if policy.whole_grid else above
        rows, columns = np.nonzero(mask)
        x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        (source,) = boxes_of(geometry.to_source([[x0, y0, x1, y1]]))
        grid = (int(x0), int(y0), int(x1), int(y1))
        keep = mask[y0:y1, x0:x1].astype(np.float32)
        return CropPlan(Outcome.OK, (Crop(source, grid, keep=keep),))
    if not 1 <= len(boxes) <= MAX_CROPS:
        return CropPlan(Outcome.NO_ROI)
    ratio = policy.max_ratio if isinstance(policy, BboxPolicy) else None
    crops = (
        Crop(source, grid, max_ratio=ratio)
        for grid, source in zip(boxes, source_boxes, strict=True)
    )
    return CropPlan(Outcome.OK, tuple(crops))


def is_masked(policy, boxes):
    """One crop around everything; with fewer boxes the published mask mode crops each."""
    return isinstance(policy, MaskPolicy) and len(boxes) >= policy.min_regions


def places_of(plan):
    return [(crop.grid_box, crop.box) for crop in plan.crops]


def check_corrections(ours, places, geometry):
    """Our crops are the published boxes, but for empty ones and for a border that was lost."""
    rows, columns = geometry.grid
    crops = iter(ours.crops)
    crop = next(crops, None)
    for (x0, y0, x1, y1), source in places:
        regained = [
            (x0, y0, right, bottom)
            for right in {x1, columns if x1 == columns - 1 else x1}
            for bottom in {y1, rows if y1 == rows - 1 else y1}
        ]
        if crop is not None and crop.grid_box in regained:
            assert crop.grid_box != (x0, y0, x1, y1) or crop.box == source
            crop = next(crops, None)
        else:
            assert is_empty(source)
    assert crop is None
    if not ours.crops:
        assert ours.outcome in (Outcome.TOO_SMALL, Outcome.NO_ROI)


def with_lines(plan, size):
    """The plan, each empty box a line of one pixel: the core refuses to cut nothing."""
    return replace(
        plan, crops=tuple(replace(crop, box=line_in(crop.box, size)) for crop in plan.crops)
    )


def line_in(box, size):
    starts = [min(start, side - 1) for start, side in zip(box[:2], size, strict=True)]
    ends = [max(end, start + 1) for end, start in zip(box[2:], starts, strict=True)]
    return (*starts, *ends) if is_empty(box) else box


def check_published(llava, question, plan, case):
    """A run with the published boxes has every published number."""
    llava = BlackCropLlava(llava.model, llava.processor)
    (prompt,) = llava.encode([question])
    ((kept, segments),) = encode_crops(llava, [(question.images[0], plan)])
    assert places_of(kept) == places_of(plan)
    spliced = prompt.with_crops((segments,))
    counts = [len(segment) for segment in segments]
    assert counts == case["tokens_per_roi"].tolist()
    assert len(segments) == case["sub_num"]
    assert len(spliced) == case["seq_len"]
    positions = prompt_block(llava, [spliced]).positions[0].numpy()
    np.testing.assert_array_equal(positions, np.arange(len(spliced)))
    if "position_ids" in case:
        np.testing.assert_array_equal(positions, case["position_ids"])
    check_inserted(llava, question, plan, segments, case)

    n_tokens = len(case["ids"])
    cut = with_lines(plan, question.images[0].size)
    result = run(llava, question, PlanProposer(cut), n_tokens)
    assert result.answer.ids == until_end(llava, case["ids"])
    assert result.answer.n_visual_tokens == prompt.n_visual_tokens + sum(counts)
    np.testing.assert_allclose(result.logits[0], case["logits0"], atol=LOGITS, rtol=0)
    steps = len(result.logits)
    margins = case["margin"][:steps]
    np.testing.assert_allclose(result.margins, margins, atol=2 * LOGITS, rtol=0)
    if "logits_last" in case and steps == n_tokens:
        np.testing.assert_allclose(result.logits[-1], case["logits_last"], atol=LOGITS, rtol=0)
    prefix, rest, *calls = result.positions
    np.testing.assert_array_equal(np.concatenate([prefix, rest]), positions)
    decoded = [int(position) for call in calls for position in call]
    assert decoded == list(range(len(spliced), len(spliced) + steps - 1))
    if "decode_pos" in case:
        assert decoded == case["decode_pos"][: steps - 1].tolist()


def check_inserted(llava, question, plan, segments, case):
    """The images that are encoded again, and the tokens that come of them."""
    if "ins_feat" in case:
        inserted = np.concatenate([segment.features.numpy() for segment in segments])
        ours = inserted[case["ins_idx"]]
        np.testing.assert_allclose(ours, case["ins_feat"], atol=INSERTED, rtol=0)
    if "ins_sum" in case:
        inserted = np.concatenate([segment.features.numpy() for segment in segments])
        allowed = INSERTED * np.sqrt(inserted.size)  # independent errors of that size
        np.testing.assert_allclose(
            inserted.sum(dtype=np.float64), case["ins_sum"], atol=allowed, rtol=0
        )
    if "crop_block_mean" in case:
        patch = llava.model.config.vision_config.patch_size
        for crop, expected in zip(plan.crops, case["crop_block_mean"], strict=True):
            inputs = llava.preprocess_crop(question.images[0].crop(crop.box))
            (pixels,) = inputs.tensors["pixel_values"]
            ours = block_means(pixels, patch)
            np.testing.assert_allclose(ours, expected, atol=CROP_MEANS, rtol=0)


def check_ours(llava, question, proposer, expected, published, case):
    """Our answer: the published one, or that of the plain model on the corrected sequence."""
    n_tokens = len(case["ids"])
    result = run(llava, question, proposer, n_tokens)
    (proposal,) = result.answer.proposals
    assert proposal.plan.outcome is expected.outcome
    assert places_of(proposal.plan) == places_of(expected)
    if places_of(expected) == places_of(published):
        assert result.answer.ids == until_end(llava, case["ids"])
        np.testing.assert_allclose(result.logits[0], case["logits0"], atol=LOGITS, rtol=0)
        return
    (prompt,) = llava.encode([question])
    ((_, segments),) = encode_crops(llava, [(question.images[0], expected)])
    spliced = prompt.with_crops((segments,))
    (ids,) = generate(llava, prompt_block(llava, [spliced]), max_new_tokens=n_tokens)
    assert result.answer.ids == ids
    counts = dict(zip(places_of(published), case["tokens_per_roi"].tolist(), strict=False))
    for place, segment in zip(places_of(expected), segments, strict=True):
        # A crop with a regained border may have more tokens: only the others are compared.
        assert len(segment) == counts.get(place, len(segment))


@same_pixels
@pytest.mark.golden_files("llava/samples/*.npz")
def test_every_run_of_a_sample(golden_file, load, llava, llava_rpn, llava_folder):
    data = load(golden_file)
    question = question_of(llava_folder, data)
    geometry = llava.preprocess(question.images[0]).geometry
    runs = [name.removesuffix(".seq_len") for name in data if name.endswith(".seq_len")]
    if not runs:
        pytest.skip("this sample has no two-stage run")
    for name in runs:
        case = {key[len(name) + 1 :]: data[key] for key in data if key.startswith(f"{name}.")}
        kind, threshold, ratio = re.fullmatch(r"(bbox|mask)_t(.+)_r(.+)", name).groups()
        policy = policy_for(kind == "mask", float(threshold), float(ratio))
        boxes = boxes_of(data[f"boxes_t{threshold}"])
        source_boxes = boxes_of(data[f"src_boxes_t{threshold}"])
        ours = policy.plan(RoIMap(data["roi_logits"]), geometry)
        published = published_plan(policy, data["roi_logits"], boxes, source_boxes, geometry)
        if places_of(ours) != places_of(published):
            places = zip(boxes, source_boxes, strict=True)
            masked = is_masked(policy, boxes)
            check_corrections(ours, places_of(published) if masked else places, geometry)
        check_published(llava, question, published, case)
        check_ours(llava, question, RPNProposer(llava_rpn, policy), ours, published, case)
        if not published.crops:
            assert case["ids"].tolist() == data["base_ids"].tolist()


@same_pixels
@in_forced_maps
def test_forced_map(golden_file, golden_entry, load, llava, llava_folder):
    case = forced_case(load(golden_file), golden_entry)
    question = question_of(llava_folder, load(sample_file(llava_folder, case["sample"])))
    geometry = llava.preprocess(question.images[0]).geometry
    policy = policy_for(
        bool(case["method_is_mask"]), float(case["thresh"]), float(case["max_ratio"])
    )
    boxes, source_boxes = boxes_of(case["boxes"]), boxes_of(case["src_boxes"])
    ours = policy.plan(RoIMap(case["map"]), geometry)
    published = published_plan(policy, case["map"], boxes, source_boxes, geometry)
    if published.crops:
        assert [crop.box for crop in published.crops] == boxes_of(case["vis_bboxes"])
    if places_of(ours) != places_of(published):
        places = zip(boxes, source_boxes, strict=True)
        masked = is_masked(policy, boxes)
        check_corrections(ours, places_of(published) if masked else places, geometry)
    check_published(llava, question, published, case)
    proposer = MapProposer(case["map"], policy)
    check_ours(llava, question, proposer, ours, published, case)


def test_all_samples_in_one_batch(llava, llava_rpn, llava_folder, load):
    """Different plans side by side: every answer is the one that its question gets alone."""
    data = [load(path) for path in sorted((llava_folder / "samples").glob("*.npz"))]
    if not data:
        pytest.skip("no samples")
    n_tokens = len(data[0]["base_ids"])
    questions = [question_of(llava_folder, sample) for sample in data]
    proposer = RPNProposer(llava_rpn, MaskPolicy(threshold=0.15))
    alone = [
        answer_batch(llava, [question], proposer, max_new_tokens=n_tokens)[0]
        for question in questions
    ]
    together = answer_batch(llava, questions, proposer, max_new_tokens=n_tokens)
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    assert [answer.boxes for answer in together] == [answer.boxes for answer in alone]
    if len({answer.n_visual_tokens for answer in alone}) == 1:
        pytest.skip("in this set every answer sees equally many visual tokens")

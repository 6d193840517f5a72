"""Thresholds, regions, crops and geometry against the published numbers.

Two published behaviors are defects and are corrected (docs/fidelity.md): a grown box at the far
border loses its last row or column, and a box without source pixels becomes a black crop. The tests
derive from the published value what the corrected one must be, and accept nothing else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.crops.policy import CropPlan, CropPolicy, Outcome
from sdrpn_core.crops.regions import RegionRule
from sdrpn_core.crops.tokens import keep_tokens, token_grid
from sdrpn_core.grid.geometry import PaddedSquare, Resized
from sdrpn_core.grid.roi_map import RoIMap, gaussian_blur
from tests.golden.forced_maps import forced_case, in_forced_maps
from tests.golden.llava import sample_file

MAX_CROPS = 2
BLUR_TOLERANCE = 5e-5  # README: roi_prob_blurred


def boxes_of(rows):
    return [tuple(row) for row in np.asarray(rows).reshape(-1, 4).tolist()]


def rule(threshold, **options):
    """The published convention: a negative threshold is relative to the raw map's maximum."""
    return {"threshold": abs(float(threshold)), "relative": bool(threshold < 0), **options}


def mask_policy(threshold):
    """The published mask mode: with a negative threshold the mask is full."""
    return MaskPolicy(**rule(threshold), whole_grid=bool(threshold < 0))


def region_boxes(above):
    """(area, box) of each 8-connected region in raster order, by flood fill."""
    left, found = above.copy(), []
    for start in zip(*np.nonzero(above), strict=True):
        if not left[start]:
            continue
        left[start] = False
        cells, todo = [], [start]
        while todo:
            row, column = todo.pop()
            cells.append((row, column))
            for near in np.ndindex(3, 3):
                y, x = row + near[0] - 1, column + near[1] - 1
                if 0 <= y < above.shape[0] and 0 <= x < above.shape[1] and left[y, x]:
                    left[y, x] = False
                    todo.append((y, x))
        rows, columns = zip(*cells, strict=True)
        found.append((len(cells), (min(columns), min(rows), max(columns) + 1, max(rows) + 1)))
    return found


def check_regions(scores, options, published):
    """Our boxes equal the published ones, but for the border that a published grown box loses."""
    regions, roi = RegionRule(**options), RoIMap(scores)
    above = regions.above(roi)
    ours = list(regions.regions(above).boxes)
    largest = regions.max_area_fraction * above.size
    counted = [(area, box) for area, box in region_boxes(above) if 1 < area <= largest]
    assert len(ours) == len(counted) == len(published)
    rows, columns = above.shape
    for our, (area, region), theirs in zip(ours, counted, published, strict=True):
        x0, y0, x1, y1 = our
        if area >= regions.min_area:
            assert our == region == theirs
            continue
        assert theirs == (x0, y0, min(x1, columns - 1), min(y1, rows - 1))
        assert (x0, y0) == (min(x0, region[0]), min(y0, region[1]))
        assert (x1, y1) == (max(x1, region[2]), max(y1, region[3]))
    return ours


@pytest.fixture
def square(golden):
    """Makes the padded-square geometry of the golden model for an image size."""
    config = json.loads((golden / "llava/base_hf/config.json").read_text())["vision_config"]
    side, cells = config["image_size"], config["image_size"] // config["patch_size"]
    return lambda size: PaddedSquare(tuple(int(v) for v in size), (cells, cells), side)


@pytest.mark.golden_files("llava/boxes.npz")
def test_battery_of_maps(golden_file, load):
    data = load(golden_file)
    for scores, by_threshold, counts in zip(
        data["maps"], data["boxes"], data["n_boxes"], strict=True
    ):
        for threshold, padded, n in zip(data["thresholds"], by_threshold, counts, strict=True):
            check_regions(scores, rule(threshold), boxes_of(padded[:n]))


@pytest.mark.golden_files("llava/boxes.npz")
def test_battery_of_larger_minimum_without_maximum(golden_file, load):
    data = load(golden_file)
    names = [name for name in data if re.fullmatch(r"boxes_min\d+_nomax_t[\d_]+", name)]
    if not names:
        pytest.skip("this battery has no boxes of a larger minimum area")
    for name in names:
        _, minimum, _, threshold = name.split("_", 3)
        options = rule(
            float(threshold[1:].replace("_", ".")), min_area=int(minimum[3:]), max_area_fraction=1.0
        )
        for scores, padded, n in zip(data["maps"], data[name], data[f"n_{name}"], strict=True):
            check_regions(scores, options, boxes_of(padded[:n]))


@pytest.mark.golden_files("llava/boxes.npz")
def test_battery_of_source_boxes(golden_file, load, square):
    data = load(golden_file)
    for size, expected in zip(data["src_sizes_wh"], data["src_out_boxes"], strict=True):
        np.testing.assert_array_equal(square(size).to_source(data["src_in_boxes"]), expected)


@pytest.mark.golden_files("llava/boxes.npz")
def test_content_holds_the_published_rectangle(golden_file, load, square):
    """The published rectangle is rounded down to whole cells; ours counts every cell it touches.

    Rounding down loses less than one cell, and an interval touches at most one cell more than its
    length rounded up: two cells an axis.
    """
    data = load(golden_file)
    for size, (y0, x0, y1, x1) in zip(
        data["src_sizes_wh"], data["fgmask24_bbox_yxyx"], strict=True
    ):
        content = square(size).content()
        for axis, low, high in ((1, y0, y1), (0, x0, x1)):
            ours = set(np.flatnonzero(content.any(axis)))
            published = set(range(low, high + 1))
            assert published <= ours
            assert len(ours) <= len(published) + 2


def check_plan(policy: CropPolicy, scores, geometry, published, published_source, kind="logit"):
    """The bbox plan follows from the published boxes: those with source pixels, if not too many."""
    options = rule(-policy.threshold if policy.relative else policy.threshold)
    ours = check_regions(scores, options, published)
    assert boxes_of(geometry.to_source(published)) == published_source
    plan = policy.plan(RoIMap(scores, kind), geometry)
    # A border that a published box lost may change the source box, or give it pixels at all.
    source = boxes_of(geometry.to_source(ours))
    full = [(g, s) for g, s in zip(ours, source, strict=True) if s[0] < s[2] and s[1] < s[3]]
    for our, our_source, theirs, their_source in zip(
        ours, source, published, published_source, strict=True
    ):
        assert our != theirs or our_source == their_source
    if len(full) > MAX_CROPS:
        assert (plan.outcome, plan.crops) == (Outcome.TOO_MANY, ())
    elif full:
        assert plan.outcome is Outcome.OK
        assert [(crop.grid_box, crop.box) for crop in plan.crops] == full
    else:
        assert (plan.outcome, plan.crops) == (outcome_without_crops(policy, scores, kind), ())
    return plan


def outcome_without_crops(policy, scores, kind):
    """docs/fidelity.md: an over-large region outranks isolated cells and boxes without pixels."""
    above = policy.above(RoIMap(scores, kind))
    areas = [area for area, _ in region_boxes(above)]
    over_large = any(area > policy.max_area_fraction * above.size for area in areas)
    return Outcome.NO_ROI if over_large or not areas else Outcome.TOO_SMALL


def kept_counts(plan: CropPlan, grid):
    """Tokens that each crop contributes where a crop has the grid of the whole image."""
    return [
        int(keep_tokens(crop.keep, grid).sum())
        if crop.keep is not None
        else int(np.prod(token_grid(crop, grid)))
        for crop in plan.crops
    ]


def check_token_counts(plan, geometry, published, counts):
    """Each crop of a plan by boxes has as many tokens as the published crop of the same box."""
    if len(published) > MAX_CROPS:
        assert len(counts) == 0
        return
    per_box = dict(zip(published, counts, strict=True))
    for crop, count in zip(plan.crops, kept_counts(plan, geometry.grid), strict=True):
        x0, y0, x1, y1 = crop.grid_box
        assert crop.keep is None
        # A published box that has lost its border has the tokens of the smaller box: not compared.
        assert count == per_box.get(crop.grid_box, count)
        assert any(
            box[:2] == (x0, y0) and box[2] in (x1, x1 - 1) and box[3] in (y1, y1 - 1)
            for box in published
        )


@pytest.mark.golden_files("llava/samples/*.npz")
def test_blurred_map_of_a_sample(golden_file, load):
    data = load(golden_file)
    blurred = gaussian_blur(RoIMap(data["roi_logits"]).probabilities())
    np.testing.assert_allclose(blurred, data["roi_prob_blurred"], atol=BLUR_TOLERANCE, rtol=0)


@pytest.mark.golden_files("llava/samples/*.npz")
def test_boxes_of_a_sample_at_every_threshold(golden_file, load, square):
    data = load(golden_file)
    geometry = square(data["size_wh"])
    thresholds = [match[1] for name in data if (match := re.fullmatch(r"boxes_t(-?[\d.]+)", name))]
    if not thresholds:
        pytest.skip("this sample has no boxes")
    for threshold in thresholds:
        check_plan(
            BboxPolicy(**rule(float(threshold))),
            data["roi_logits"],
            geometry,
            boxes_of(data[f"boxes_t{threshold}"]),
            boxes_of(data[f"src_boxes_t{threshold}"]),
        )


@pytest.mark.golden_files("llava/samples/*.npz")
def test_boxes_of_a_softmax_map(golden_file, load):
    data = load(golden_file)
    names = [name for name in data if name.startswith("mse_boxes_t")]
    if not names:
        pytest.skip("this sample has no boxes of its softmax map")
    for name in names:
        options = rule(float(name.removeprefix("mse_boxes_t")))
        check_regions(data["roi_map_mse"], options, boxes_of(data[name]))


@pytest.mark.golden_files("llava/samples/*.npz")
def test_tokens_of_every_two_stage_run(golden_file, load, square):
    data = load(golden_file)
    geometry, runs = square(data["size_wh"]), 0
    for name, counts in data.items():
        if not (match := re.fullmatch(r"(bbox|mask)_t(.+)_r(.+)\.tokens_per_roi", name)):
            continue
        kind, threshold, ratio = match.groups()
        runs += 1
        published = boxes_of(data[f"boxes_t{threshold}"])
        if kind == "bbox":
            policy: CropPolicy = BboxPolicy(
                **rule(float(threshold)), max_ratio=float(ratio) if float(ratio) > 0 else None
            )
        else:
            policy = mask_policy(float(threshold))
        plan = policy.plan(RoIMap(data["roi_logits"]), geometry)
        if kind == "mask" and len(published) >= policy.min_regions:
            assert kept_counts(plan, geometry.grid) == counts.tolist()
        else:
            check_token_counts(plan, geometry, published, counts)
    if not runs:
        pytest.skip("this sample has no two-stage run")


@pytest.fixture
def forced_map(golden_file, golden_entry, load, square):
    """A forced map with its settings, and the geometry of the image that it is laid over."""
    case = forced_case(load(golden_file), golden_entry)
    sample = load(sample_file(golden_file.parent, case["sample"]))
    return case, square(sample["size_wh"])


@in_forced_maps
def test_forced_map(forced_map):
    case, geometry = forced_map
    published, source = boxes_of(case["boxes"]), boxes_of(case["src_boxes"])
    counts = case["tokens_per_roi"].tolist()
    threshold, ratio = float(case["thresh"]), float(case["max_ratio"])
    bbox = BboxPolicy(**rule(threshold), max_ratio=ratio if ratio > 0 else None)
    plan = check_plan(bbox, case["map"], geometry, published, source)
    if case["method_is_mask"] and len(published) >= 2:
        plan = mask_policy(threshold).plan(RoIMap(case["map"]), geometry)
        assert [crop.box for crop in plan.crops] == boxes_of(case["vis_bboxes"])
        assert kept_counts(plan, geometry.grid) == counts
    elif case["method_is_mask"]:
        plan = mask_policy(threshold).plan(RoIMap(case["map"]), geometry)
        check_token_counts(plan, geometry, published, counts)
    else:
        check_token_counts(plan, geometry, published, counts)


@in_forced_maps
def test_forced_map_in_the_padding_is_dropped(forced_map):
    """Published: a black crop and its 576 tokens. Here: no crop, and the outcome says why."""
    case, geometry = forced_map
    threshold, source = float(case["thresh"]), boxes_of(case["src_boxes"])
    if not source or any(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in source):
        pytest.skip("not every box of this map lies in the padding, or it has none")
    if len(source) <= MAX_CROPS:
        assert case["tokens_per_roi"].sum() > 0
    expected = (outcome_without_crops(BboxPolicy(**rule(threshold)), case["map"], "logit"), ())
    plan = BboxPolicy(**rule(threshold)).plan(RoIMap(case["map"]), geometry)
    assert (plan.outcome, plan.crops) == expected
    masked = mask_policy(threshold)
    if len(source) < masked.min_regions:
        plan = masked.plan(RoIMap(case["map"]), geometry)
        assert (plan.outcome, plan.crops) == expected


@pytest.mark.golden_files("qwen2_5_vl/case_*.npz")
def test_dynamic_resolution_masks(golden_file, load):
    """One box around everything above the threshold, on images stretched to the grid."""
    data = load(golden_file)
    settings = json.loads((golden_file.parent / "cases.json").read_text())
    case = settings[golden_file.stem.removeprefix("case_")]
    roi = RoIMap(data["roi_sigmoid_masked"], "distribution")
    np.testing.assert_allclose(gaussian_blur(roi.scores), data["roi_blur"], atol=1e-5, rtol=0)
    geometry = Resized(tuple(case["image_size_wh"]), roi.grid, cell=28)
    for tag in case["thresholds"]:
        policy = MaskPolicy(threshold=int(tag[1:]) / 100, min_regions=1)
        plan = policy.plan(roi, geometry)
        mask = data[f"{tag}_mask"]
        if not mask.any():
            assert (plan.outcome, plan.crops) == (Outcome.NO_ROI, ())
            continue
        (crop,) = plan.crops
        assert plan.outcome is Outcome.OK
        assert crop.grid_box == tuple(data[f"{tag}_box_grid"])
        assert crop.box == tuple(data[f"{tag}_box_src"])
        x0, y0, x1, y1 = crop.grid_box
        np.testing.assert_array_equal(crop.keep, mask[y0:y1, x0:x1])
        if f"{tag}_crop_token_mask" in data:
            expected = data[f"{tag}_crop_token_mask"].astype(bool)
            np.testing.assert_array_equal(keep_tokens(crop.keep, expected.shape), expected)


def test_the_folder_has_golden_data(golden: Path):
    """A folder that exists but has another layout would skip every test without a word."""
    assert any(golden.glob("llava/**/*.npz")) or any(golden.glob("qwen2_5_vl/*.npz"))

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdrpn_core.crops.bbox import BboxPolicy
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.crops.policy import Crop, CropPlan, CropPolicy, Outcome
from sdrpn_core.crops.regions import RegionRule
from sdrpn_core.crops.tokens import keep_tokens, token_grid
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.grid.geometry import PaddedSquare, Resized
from sdrpn_core.grid.roi_map import RoIMap

HIGH, LOW = 20.0, -20.0
GRID = (12, 12)
SQUARE = Resized((240, 240), GRID, 28)


def region_map(*boxes, grid=GRID):
    """A logit map that is high inside the boxes; the blur widens each by about one cell."""
    scores = np.full(grid, LOW)
    for x0, y0, x1, y1 in boxes:
        scores[y0:y1, x0:x1] = HIGH
    return RoIMap(scores)


def sharp(threshold=0.5, **options):
    """At one half the blur leaves a region where it is, unless it ends one cell from the border."""
    return {"threshold": threshold, **options}


def test_one_region():
    plan = BboxPolicy(**sharp()).plan(region_map((2, 3, 6, 8)), SQUARE)
    assert plan.outcome is Outcome.OK
    (crop,) = plan.crops
    assert crop.grid_box == (2, 3, 6, 8)
    assert crop.box == (40, 60, 120, 160)
    assert crop.keep is None
    assert crop.max_ratio is None


def test_each_outcome_comes_of_its_kind_of_map():
    bbox = BboxPolicy(**sharp())
    single = RoIMap(np.where(np.arange(144).reshape(GRID) == 65, 60.0, -1e-3))
    cases = {
        (): Outcome.NO_ROI,
        ((0, 0, 3, 3), (5, 5, 8, 8), (9, 0, 12, 3)): Outcome.TOO_MANY,
        ((0, 0, 12, 9),): Outcome.NO_ROI,
    }
    for boxes, outcome in cases.items():
        plan = bbox.plan(region_map(*boxes), SQUARE)
        assert (plan.outcome, plan.crops) == (outcome, ()), boxes
        assert plan.reason
    plan = BboxPolicy(threshold=0.6).plan(single, SQUARE)
    assert (plan.outcome, plan.crops) == (Outcome.TOO_SMALL, ())


def test_the_strongest_of_too_many_regions():
    boxes = ((0, 0, 3, 3), (5, 5, 8, 8), (9, 0, 12, 3), (0, 9, 3, 12))
    scores = region_map(*boxes).scores.copy()
    for (x0, y0, x1, y1), factor in zip(boxes, (0.9, 1.0, 0.8, 0.95), strict=True):
        scores[y0:y1, x0:x1] *= factor
    options = {"relative": True, "blur": False, "keep_strongest": True}
    for policy, kept in (
        (BboxPolicy(**sharp(**options)), (1, 3)),
        (BboxPolicy(**sharp(**options, max_crops=1)), (1,)),
        (BboxPolicy(**sharp(**options, max_crops=3)), (0, 1, 3)),
        (BboxPolicy(**sharp(**options, max_crops=4)), (0, 1, 2, 3)),
    ):
        plan = policy.plan(RoIMap(scores), SQUARE)
        found = {crop.grid_box for crop in plan.crops}
        assert (plan.outcome, found) == (Outcome.OK, {boxes[index] for index in kept})
        # in the order in which the map is read, like those of a map with few regions
        assert [crop.grid_box[1::-1] for crop in plan.crops] == sorted(
            crop.grid_box[1::-1] for crop in plan.crops
        )
    equal = BboxPolicy(**sharp(**options)).plan(region_map(*boxes), SQUARE)
    assert [crop.grid_box for crop in equal.crops] == [boxes[0], boxes[2]]


def test_the_strongest_region_is_not_the_largest():
    """Its peak counts."""
    scores = np.zeros(GRID)
    scores[0:5, 0:5], scores[8:10, 8:10] = 0.8, 1.0
    policy = BboxPolicy(**sharp(relative=True, blur=False, keep_strongest=True, max_crops=1))
    (crop,) = policy.plan(RoIMap(scores), SQUARE).crops
    assert crop.grid_box == (8, 8, 10, 10)


@pytest.mark.parametrize(("min_side", "box"), [(0, (40, 60, 60, 120)), (50, (25, 60, 75, 120))])
def test_a_narrow_mask_is_widened_in_the_image_alone(min_side, box):
    policy = MaskPolicy(**sharp(blur=False, min_regions=1, min_side=min_side))
    (crop,) = policy.plan(region_map((2, 3, 3, 6)), SQUARE).crops
    assert (crop.box, crop.grid_box) == (box, (2, 3, 3, 6))


def test_the_strongest_regions_lie_in_the_image():
    """What lies in the padding is dropped before the regions are counted and compared."""
    geometry = PaddedSquare((240, 720), GRID, 336)  # the middle third of the square
    in_padding, above, below = (0, 2, 3, 6), (5, 2, 8, 6), (5, 8, 8, 11)
    scores = region_map(above, below).scores.copy()
    scores[2:6, 0:3] = 2 * HIGH
    policy = BboxPolicy(**sharp(0.4, relative=True, blur=False, keep_strongest=True, max_crops=1))
    (crop,) = policy.plan(RoIMap(scores), geometry).crops
    assert crop.grid_box == above
    assert in_padding in policy.regions(policy.above(RoIMap(scores))).boxes


def test_oversized_region_outranks_a_speck_beside_it():
    scores = region_map((0, 0, 12, 9)).scores.copy()
    scores[11, 5] = 1000.0
    options = sharp(0.19)  # a lone cell keeps 0.204 of its weight
    assert RegionRule(**options).regions(RegionRule(**options).above(RoIMap(scores))).single == 1
    plan = BboxPolicy(**options).plan(RoIMap(scores), SQUARE)
    assert plan.outcome is Outcome.NO_ROI


def test_oversized_region_outranks_one_in_the_padding():
    geometry = PaddedSquare((240, 720), GRID, 336)  # the middle third of the square
    in_padding, oversized = (0, 2, 3, 6), (6, 0, 12, 12)
    policy = BboxPolicy(**sharp())
    assert policy.plan(region_map(in_padding), geometry).outcome is Outcome.TOO_SMALL
    both = region_map(in_padding, oversized)
    regions = policy.regions(policy.above(both))
    assert (regions.boxes, regions.oversized) == ((in_padding,), 1)
    plan = policy.plan(both, geometry)
    assert (plan.outcome, plan.crops) == (Outcome.NO_ROI, ())
    assert "too much of the image" in plan.reason


def test_a_region_in_the_padding_is_dropped():
    """An image three times as high as wide covers the middle third of the square."""
    geometry = PaddedSquare((240, 720), GRID, 336)
    in_padding, in_image = (0, 2, 3, 6), (5, 2, 8, 6)
    for policy in (BboxPolicy(**sharp()), MaskPolicy(**sharp())):
        plan = policy.plan(region_map(in_padding), geometry)
        assert (plan.outcome, plan.crops) == (Outcome.TOO_SMALL, ())
    below = (0, 8, 3, 11)
    for policy, boxes in (
        (MaskPolicy(**sharp(), min_regions=1), (in_padding,)),
        (MaskPolicy(**sharp()), (in_padding, below)),
    ):
        plan = policy.plan(region_map(*boxes), geometry)
        assert (plan.outcome, plan.crops) == (Outcome.TOO_SMALL, ())
    plan = BboxPolicy(**sharp()).plan(region_map(in_padding, in_image), geometry)
    assert [crop.grid_box for crop in plan.crops] == [in_image]
    # Dropped before counting: two regions of the image remain.
    three = region_map(in_padding, in_image, (5, 8, 8, 11))
    assert BboxPolicy(**sharp()).plan(three, geometry).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([(11, 10), (11, 11)], (9, 10, 12, 12)),  # lower right: the published clamp loses row 11
        ([(0, 0), (0, 1)], (0, 0, 2, 2)),
        ([(5, 5), (5, 6)], (4, 4, 7, 7)),
        ([(5, 5), (6, 5), (7, 5)], (4, 4, 7, 8)),
        ([(0, 11), (1, 11)], (10, 0, 12, 2)),
    ],
)
def test_small_regions_grow_around_their_center(cells, expected):
    above = np.zeros(GRID, dtype=bool)
    above[tuple(zip(*cells, strict=True))] = True
    assert RegionRule().regions(above).boxes == (expected,)


def test_diagonal_neighbors_are_one_region():
    assert RegionRule(min_area=1).regions(np.eye(5, dtype=bool)).boxes == ((0, 0, 5, 5),)


def test_largest_area_is_inclusive():
    rule = RegionRule(max_area_fraction=225 / 576)
    above = np.zeros((24, 24), dtype=bool)
    above[:15, :15] = True
    assert rule.regions(above).boxes == ((0, 0, 15, 15),)
    above[15, 0] = True
    assert rule.regions(above).boxes == ()
    assert rule.regions(above).oversized == 1


def test_relative_threshold_reads_the_raw_map():
    scores = np.full(GRID, -5.0)
    scores[2:5, 2:5] = 4.0
    scores[8:11, 8:11] = 1.0
    policy = BboxPolicy(threshold=0.3, relative=True)
    assert [crop.grid_box for crop in policy.plan(RoIMap(scores), SQUARE).crops] == [(2, 2, 5, 5)]
    assert policy.plan(RoIMap(scores - 10), SQUARE).outcome is Outcome.NO_ROI


def test_mask_with_two_regions():
    roi = region_map((2, 2, 5, 5), (7, 6, 10, 10))
    (crop,) = MaskPolicy(**sharp()).plan(roi, SQUARE).crops
    assert crop.grid_box == (2, 2, 10, 10)
    assert crop.keep is not None
    assert crop.keep.dtype == np.float32
    expected = np.zeros((8, 8))
    expected[:3, :3] = expected[4:, 5:] = 1
    np.testing.assert_array_equal(crop.keep, expected)


def test_mask_with_one_region_is_a_plain_crop_unless_it_is_always_masked():
    roi = region_map((1, 1, 4, 4))
    (plain,) = MaskPolicy(**sharp()).plan(roi, SQUARE).crops
    (masked,) = MaskPolicy(**sharp(), min_regions=1).plan(roi, SQUARE).crops
    assert plain.keep is None
    assert masked.keep is not None
    assert plain.box == masked.box


def test_mask_keeps_specks_and_oversized_regions():
    roi = region_map((0, 0, 12, 5), (0, 7, 3, 10), (7, 7, 10, 10))
    (crop,) = MaskPolicy(**sharp()).plan(roi, SQUARE).crops
    assert crop.grid_box == (0, 0, 12, 10)
    always = MaskPolicy(**sharp(), min_regions=1).plan(region_map((0, 0, 12, 12)), SQUARE)
    assert always.crops[0].grid_box == (0, 0, 12, 12)


def test_mask_with_a_relative_threshold_holds_the_cells_above_the_share():
    scores = np.full(GRID, 0.001)
    scores[1:4, 1:4] = scores[8:11, 7:10] = 0.02  # far below any probability that would count
    scores[5:8, 1:4] = 0.008  # below half of the maximum
    options = {"threshold": 0.5, "relative": True, "blur": False}
    (crop,) = MaskPolicy(**options).plan(RoIMap(scores, "distribution"), SQUARE).crops
    assert crop.grid_box == (1, 1, 10, 11)
    assert crop.box == (20, 20, 200, 220)
    np.testing.assert_array_equal(crop.keep, scores[1:11, 1:10] == 0.02)


@pytest.mark.parametrize("relative", [False, True])
def test_whole_grid_looks_at_the_whole_image_again(relative):
    policy = MaskPolicy(threshold=0.5, relative=relative, whole_grid=True)
    scores = np.zeros(GRID)
    scores[1:4, 1:4] = 1
    (plain,) = policy.plan(RoIMap(scores, "distribution"), SQUARE).crops
    assert plain.grid_box != (0, 0, 12, 12)  # a single region gets a plain crop, mask or not
    assert plain.keep is None
    scores[8:11, 8:11] = 1
    (crop,) = policy.plan(RoIMap(scores, "distribution"), SQUARE).crops
    assert crop.box == (0, 0, 240, 240)
    assert crop.grid_box == (0, 0, 12, 12)
    assert crop.keep is not None
    assert crop.keep.all()
    always = MaskPolicy(threshold=0.5, relative=relative, whole_grid=True, min_regions=1)
    assert always.plan(RoIMap(np.zeros(GRID), "distribution"), SQUARE).outcome is Outcome.NO_ROI


@st.composite
def problems(draw):
    """A map with connected patches, a geometry of any image size, and a policy."""
    rows, columns = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    width, height = draw(st.integers(1, 3000)), draw(st.integers(1, 3000))
    if draw(st.booleans()):
        columns = rows
        geometry = PaddedSquare((width, height), (rows, rows), 14 * rows)
    else:
        geometry = Resized((width, height), (rows, columns), 28)
    kind = draw(st.sampled_from(["logit", "distribution"]))
    low, high = (-8, 8) if kind == "logit" else (0, 1)
    scores = draw(hnp.arrays(np.float32, (rows, columns), elements=st.floats(low, high, width=16)))
    options = {
        "threshold": draw(st.floats(0.01, 0.99)),
        "relative": draw(st.booleans()),
        "min_area": draw(st.integers(1, 9)),
        "max_area_fraction": draw(st.floats(0.05, 1)),
    }
    policy = draw(
        st.sampled_from(
            [
                BboxPolicy(**options, max_crops=draw(st.integers(1, 4))),
                MaskPolicy(
                    **options,
                    min_regions=draw(st.integers(1, 3)),
                    whole_grid=draw(st.booleans()),
                ),
            ]
        )
    )
    return RoIMap(scores, kind), geometry, policy


@given(problems())
def test_plans_are_never_empty_and_stay_inside(problem):
    roi, geometry, policy = problem
    plan = policy.plan(roi, geometry)
    assert (plan.outcome is Outcome.OK) == bool(plan.crops) == (not plan.reason)
    width, height = geometry.source_size
    rows, columns = geometry.grid
    for crop in plan.crops:
        x0, y0, x1, y1 = crop.box
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        x0, y0, x1, y1 = crop.grid_box
        assert 0 <= x0 < x1 <= columns
        assert 0 <= y0 < y1 <= rows
        if crop.keep is not None:
            assert crop.keep.shape == (y1 - y0, x1 - x0)
            assert set(np.unique(crop.keep)) <= {0.0, 1.0}
            assert crop.keep.any(0)[[0, -1]].all()
            assert crop.keep.any(1)[[0, -1]].all()
    if isinstance(policy, BboxPolicy):
        assert len(plan.crops) <= policy.max_crops


@given(problems())
def test_options_make_the_same_policy_again(problem):
    policy = problem[2]
    options = json.loads(json.dumps(policy.options()))
    assert type(policy).from_options(options) == policy


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=10)))
def test_regions_partition_the_mask(above):
    """With no limits every cell lies in a box or is single, in raster order of the first cell."""
    regions = RegionRule(min_area=2, max_area_fraction=1.0).regions(above)
    covered = np.zeros_like(above)
    firsts = []
    for x0, y0, x1, y1 in regions.boxes:
        covered[y0:y1, x0:x1] = True
        assert above[y0:y1, x0:x1].any(0).all()
        assert above[y0:y1, x0:x1].any(1).all()
        firsts.append(y0)
    assert firsts == sorted(firsts)
    assert (above & ~covered).sum() <= regions.single
    assert regions.oversized == 0


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.sampled_from([0, 1]),
    ),
    st.integers(1, 30),
    st.integers(1, 30),
)
def test_keep_tokens_is_torch_interpolation(keep, rows, columns):
    resized = torch.nn.functional.interpolate(
        torch.tensor(keep)[None, None], size=(rows, columns), mode="bilinear", align_corners=False
    )
    expected = (resized[0, 0] > 0.5).numpy()
    np.testing.assert_array_equal(keep_tokens(keep, (rows, columns)), expected)


def test_keep_tokens_of_the_same_grid_is_the_mask():
    keep = np.eye(4, dtype=np.float32)
    np.testing.assert_array_equal(keep_tokens(keep, (4, 4)), keep == 1)


def test_keep_tokens_leaves_ties_out():
    """Doubling one row of [1, 0, 1, 0] never reaches a tie; halving it gives 0.5 everywhere."""
    keep = np.array([[1, 0, 1, 0]], dtype=np.float32)
    assert not keep_tokens(keep, (1, 2)).any()


@pytest.mark.parametrize(
    ("grid_box", "ratio", "expected"),
    [
        ((0, 0, 9, 9), None, (24, 24)),
        ((0, 0, 9, 9), 2.0, (18, 18)),
        ((0, 0, 9, 9), 1.5, (14, 14)),  # 13.5 rounds to even
        ((0, 0, 7, 7), 1.5, (10, 10)),  # 10.5 rounds to even
        ((0, 0, 16, 4), 2.0, (6, 24)),  # 32x8 scaled down by 3/4
        ((0, 0, 20, 1), 0.25, (1, 5)),
        ((0, 0, 24, 1), 2.0, (1, 24)),
    ],
)
def test_token_grid(grid_box, ratio, expected):
    crop = Crop(box=(0, 0, 1, 1), grid_box=grid_box, max_ratio=ratio)
    assert token_grid(crop, (24, 24)) == expected


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (BboxPolicy, {"threshold": -0.15}),
        (BboxPolicy, {"threshold": 1.0}),
        (BboxPolicy, {"threshold": float("nan")}),
        (BboxPolicy, {"min_area": 0}),
        (BboxPolicy, {"max_area_fraction": 0.0}),
        (BboxPolicy, {"max_crops": 0}),
        (BboxPolicy, {"max_ratio": -1.0}),
        (MaskPolicy, {"min_regions": 0}),
        (BboxPolicy, {"threshold": None}),
        (BboxPolicy, {"max_crops": "2"}),
        (BboxPolicy, {"margin": "0.5"}),
        (MaskPolicy, {"prune_above": "9"}),
        (MaskPolicy, {"min_side": None}),
    ],
)
def test_options_out_of_range_are_refused(policy, options):
    for make in (policy.from_options, lambda options: policy(**options)):
        with pytest.raises(ConfigError, match=f"^[^ ]+( [^ ]+)?: {next(iter(options))} must"):
            make(options)


def test_numbers_of_numpy_are_as_good():
    policy = BboxPolicy(threshold=np.float32(0.5), max_crops=np.int64(3), margin=1)
    assert policy == BboxPolicy(threshold=0.5, max_crops=3, margin=1.0)


def test_unknown_option_names_the_near_one():
    with pytest.raises(ConfigError, match=r"'treshold'; did you mean 'threshold'\?"):
        BboxPolicy.from_options({"treshold": 0.2})


def test_a_map_of_another_grid_is_refused():
    with pytest.raises(InputError, match=r"\(3, 3\).*\(12, 12\)"):
        BboxPolicy().plan(RoIMap(np.zeros((3, 3))), SQUARE)


def test_without_blur_a_region_is_just_the_cells_above_the_threshold() -> None:
    scores = np.full((10, 10), -9.0, np.float32)
    scores[4, 5:7] = 9.0
    geometry = PaddedSquare((100, 100), (10, 10), side=80)
    tight = BboxPolicy(threshold=0.5, min_area=1, blur=False)
    assert tight.plan(RoIMap(scores), geometry).crops[0].grid_box == (5, 4, 7, 5)
    # Two cells of probability 1 blur to about 0.33 each: below one half nothing is left.
    assert BboxPolicy(threshold=0.5, min_area=1).plan(RoIMap(scores), geometry).outcome == "no_roi"


def test_a_single_cell_counts_only_if_it_is_kept() -> None:
    scores = np.full((10, 10), -9.0, np.float32)
    scores[0, 9] = 9.0
    geometry = PaddedSquare((100, 100), (10, 10), side=80)
    options = {"threshold": 0.5, "min_area": 1, "blur": False}
    assert BboxPolicy(**options).plan(RoIMap(scores), geometry).outcome == "too_small"
    plan = BboxPolicy(**options, keep_single=True).plan(RoIMap(scores), geometry)
    assert [crop.box for crop in plan.crops] == [(90, 0, 100, 10)]


@given(
    row=st.integers(0, 9),
    column=st.integers(0, 9),
    margin=st.floats(0, 3),
    size=st.tuples(st.integers(20, 500), st.integers(20, 500)),
)
def test_a_margin_grows_the_box_inside_the_image(row, column, margin, size) -> None:
    scores = np.full((10, 10), -9.0, np.float32)
    scores[row, column] = 9.0
    geometry = Resized(size, (10, 10), cell=8)
    options = {"threshold": 0.5, "min_area": 1, "blur": False, "keep_single": True}
    (plain,) = BboxPolicy(**options).plan(RoIMap(scores), geometry).crops
    (grown,) = BboxPolicy(**options, margin=margin).plan(RoIMap(scores), geometry).crops
    assert grown.grid_box == plain.grid_box
    for axis, length in enumerate(size):
        wanted = margin * length / 10
        low, high = plain.box[axis], plain.box[axis + 2]
        # Both corners are truncated to whole pixels.
        assert abs(grown.box[axis] - max(0, low - wanted)) <= 1.01
        assert abs(grown.box[axis + 2] - min(length, high + wanted)) <= 1.01


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(ConfigError, match="margin must not be negative"):
        BboxPolicy(margin=-0.1)


@dataclass(frozen=True)
class Planned(CropPolicy):
    """Plans what it is told."""

    made: Any = None

    def _plan(self, roi, geometry):
        return self.made


WIDE = Resized((480, 284), (3, 5), 28)
ONE = Crop((0, 0, 480, 284), (0, 0, 5, 3))


def planned(made):
    return Planned(made).plan(RoIMap(np.zeros(WIDE.grid)), WIDE)


@pytest.mark.parametrize(
    ("box", "grid_box"),
    [
        ((5000, 5000, 5050, 5050), (0, 0, 1, 1)),
        ((-50, -50, 50, 50), (0, 0, 1, 1)),
        ((0, 0, 284, 480), (0, 0, 1, 1)),  # height and width changed places
        ((50, 50, 10, 10), (0, 0, 1, 1)),
        ((50, 50, 50, 60), (0, 0, 1, 1)),
        ((0.5, 0.5, 50.2, 50.7), (0, 0, 1, 1)),
        ((0, 0, True, 9), (0, 0, 1, 1)),
        ((0, 0, 9), (0, 0, 1, 1)),
        (None, (0, 0, 1, 1)),
        ((0, 0, 9, 9), (0, 0, 3, 5)),
        ((0, 0, 9, 9), (0, 0, 6, 1)),
        ((0, 0, 9, 9), (1, 1, 1, 2)),
    ],
)
def test_a_policys_boxes_lie_in_the_image(box, grid_box):
    with pytest.raises(ConfigError) as error:
        planned(CropPlan(Outcome.OK, (ONE, Crop(box, grid_box))))
    wrong = grid_box if box == (0, 0, 9, 9) else box
    assert str(error.value).startswith("Planned: ")
    assert repr(wrong) in str(error.value)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([(0, 0, 9, 9)], "Planned has planned a list: return a CropPlan"),
        (None, "Planned has planned a NoneType"),
        (CropPlan("ok", (ONE,)), "Planned: 'ok' is no outcome"),
        (CropPlan(Outcome.OK), "the outcome is ok, and there is no crop"),
        (CropPlan(Outcome.NO_ROI, (ONE,)), "the outcome is no_roi, and there are crops"),
        (CropPlan(Outcome.OK, ((0, 0, 9, 9),)), "a tuple among its crops"),
    ],
)
def test_a_policys_outcome_goes_with_its_crops(made, message):
    with pytest.raises(ConfigError, match=message):
        planned(made)


def test_boxes_of_numpy_become_plain_integers():
    boxes = np.array([[0, 0, 480, 284], [1, 2, 5, 3]])
    (crop,) = planned(CropPlan(Outcome.OK, [Crop(tuple(boxes[0]), boxes[1])])).crops
    assert json.dumps([crop.box, crop.grid_box]) == "[[0, 0, 480, 284], [1, 2, 5, 3]]"

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdrpn_core.errors import AttentionError, ConfigError, InputError
from sdrpn_core.labels.pseudo import IGNORE, LabelOutcome, ThresholdLabeler, pseudo_labels
from sdrpn_core.labels.recipe import ALL_HEADS, LabelRecipe

RECIPE = LabelRecipe(grounding={14: (13, 24, 26)}, sink={2: ALL_HEADS})
GRID = (8, 10)


def peak(*cells, value=1.0, grid=GRID):
    """A grounding map with `value` at the given (row, column) cells."""
    grounding = np.zeros(grid)
    for cell in cells:
        grounding[cell] = value
    return grounding


def with_options(**options):
    return ThresholdLabeler(dataclasses.replace(RECIPE, **options))


def test_by_hand():
    grounding = peak((2, 3), (3, 4))
    grounding[2, 4] = 0.2  # on the foreground threshold: not above it, and inside the box
    grounding[6, 6] = 0.15  # between the thresholds
    grounding[7, 7] = 0.1  # on the background threshold: not below it
    result = ThresholdLabeler(RECIPE)(grounding)
    expected = np.zeros(GRID)
    expected[2:4, 3:5] = IGNORE
    expected[2, 3] = expected[3, 4] = 1
    expected[6, 6] = expected[7, 7] = IGNORE
    np.testing.assert_array_equal(result.labels, expected)
    assert result.labels.dtype == np.int64
    assert result.box == (3, 2, 5, 4)
    assert result.outcome is LabelOutcome.OK
    assert (result.n_foreground, result.n_background, result.n_ignore) == (2, 74, 4)


def test_sinks_are_removed_first():
    """A sink on the peak is not foreground; outside the box it is background."""
    grounding, sink = peak((2, 3)), np.zeros(GRID)
    grounding[6, 6], sink[6, 6] = 50.0, 1e-3
    result = ThresholdLabeler(RECIPE)(grounding, sink)
    assert result.box == (3, 2, 4, 3)
    assert result.labels[6, 6] == 0
    assert result.labels[2, 3] == 1


def test_a_sink_inside_the_box_is_ignored():
    grounding, sink = peak((2, 2), (2, 4), (2, 3)), np.zeros(GRID)
    sink[2, 3] = 1.0
    assert ThresholdLabeler(RECIPE)(grounding, sink).labels[2, 2:5].tolist() == [1, IGNORE, 1]


@pytest.mark.parametrize(
    ("grounding", "options", "outcome", "box"),
    [
        (np.zeros(GRID), {}, LabelOutcome.NO_FOREGROUND, None),
        (np.ones(GRID), {}, LabelOutcome.BOX_TOO_LARGE, (0, 0, 10, 8)),
        (peak((0, 0), (3, 9)), {}, LabelOutcome.BOX_TOO_LARGE, (0, 0, 10, 4)),  # exactly half
        (peak((1, 1), value=4e-3), {"min_peak": 5e-3}, LabelOutcome.WEAK, (1, 1, 2, 2)),
    ],
)
def test_ignored_samples(grounding, options, outcome, box):
    result = with_options(**options)(grounding)
    assert (result.outcome, result.box) == (outcome, box)
    assert (result.labels == IGNORE).all()
    assert result.n_ignore == grounding.size


def test_peak_on_the_floor_is_kept():
    assert with_options(min_peak=5e-3)(peak((1, 1), value=5e-3)).outcome is LabelOutcome.OK


def test_box_blur_widens_the_box_within_the_grid():
    result = with_options(box_blur=True)(peak((0, 3), (2, 4)))
    assert result.box == (2, 0, 6, 4)


def test_padding_counts_as_sink_and_background_only_if_the_recipe_says_so():
    grounding, content = peak((4, 4), value=0.5), np.ones(GRID, dtype=bool)
    content[:2] = False
    grounding[0, 0] = 1.0
    dynamic = with_options(padding_is_sink=True)(grounding, content=content)
    assert dynamic.box == (4, 4, 5, 5)
    assert (dynamic.labels[:2] == 0).all()
    assert with_options()(grounding, content=content).labels[0, 0] == 1


def test_smoothing_drops_an_isolated_peak():
    grounding = peak((1, 1), value=0.3)
    grounding[4:7, 4:7] = 1.0
    assert ThresholdLabeler(RECIPE)(grounding).labels[1, 1] == 1
    result = with_options(smoothing=True)(grounding)
    assert result.box == (4, 4, 7, 7)
    # Not foreground, but attended to all the same: too high to be background.
    assert result.labels[1, 1] == IGNORE


def test_smoothing_is_a_blur_of_five_cells_written_out():
    """Mirrored at the border without the edge cell; 0.15 lies between the thresholds."""
    weights = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    weights /= weights.sum()
    rng = np.random.default_rng(0)
    n_dropped = 0
    for _ in range(20):
        grounding = np.zeros((12, 12))
        grounding[7:, 7:] = rng.random((5, 5))
        grounding[rng.integers(1, 12, 6), rng.integers(1, 12, 6)] = rng.uniform(0.2, 0.9, 6)
        padded = np.pad(grounding, 2, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
        blurred = np.einsum("hwij,i,j->hw", windows, weights, weights)
        kept = np.where(blurred > 0.15 * blurred.max(), grounding, 0.0)
        expected = kept > 0.2 * kept.max()
        n_dropped += (grounding > 0.2 * kept.max()).sum() - expected.sum()
        found = with_options(smoothing=True, max_box_fraction=1.0)(grounding)
        np.testing.assert_array_equal(found.labels == 1, expected)
    assert n_dropped > 10


def test_sinks_are_compared_in_their_own_dtype():
    """1e-3 is not a half-precision number: the nearest one counts as reaching it."""
    nearest = np.full(GRID, np.float16(1e-3))
    assert float(nearest[0, 0]) != 1e-3
    result = ThresholdLabeler(RECIPE)(peak((1, 1)).astype(np.float16), nearest)
    assert result.outcome is LabelOutcome.NO_FOREGROUND


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["grounding", "sink"])
def test_attention_that_is_not_finite_is_refused(name, value):
    maps = {"grounding": peak((1, 1)), "sink": np.zeros(GRID)}
    maps[name][0, 0] = value
    with pytest.raises(AttentionError, match=f"{name} map: 1 of 80"):
        ThresholdLabeler(RECIPE)(**maps)


def test_maps_of_other_shapes_are_refused():
    with pytest.raises(InputError, match=r"grounding map must have shape \(h, w\)"):
        ThresholdLabeler(RECIPE)(np.zeros(80))
    with pytest.raises(InputError, match="sink map has shape"):
        ThresholdLabeler(RECIPE)(np.zeros(GRID), np.zeros((8, 9)))
    with pytest.raises(InputError, match="content map has shape"):
        with_options(padding_is_sink=True)(np.zeros(GRID), content=np.ones((2, 2)))


@st.composite
def problems(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=14))
    values = st.sampled_from([0.0, 1e-4, 1e-3, 0.01, 0.1, 0.2, 0.5, 1.0])
    sparse = st.one_of(st.just(0.0), values)
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    grounding = draw(hnp.arrays(np.float64, shape, elements=sparse, fill=st.just(0.0)))
    sink = draw(hnp.arrays(np.float64, shape, elements=sparse, fill=st.just(0.0)))
    content = np.zeros(shape, dtype=bool)
    rows, columns = (draw(st.integers(0, (side - 1) // 2)) for side in shape)
    content[rows : shape[0] - rows, columns : shape[1] - columns] = True
    recipe = dataclasses.replace(
        RECIPE,
        sink_threshold=draw(st.sampled_from([1e-3, 1e-2, 0.9])),
        max_box_fraction=draw(st.sampled_from([0.25, 0.5, 1.0])),
        min_peak=draw(st.sampled_from([0.0, 5e-3])),
        box_blur=draw(st.booleans()),
        padding_is_sink=draw(st.booleans()),
        smoothing=draw(st.booleans()),
    )
    return grounding.astype(dtype), sink.astype(dtype), recipe, content


@given(problems())
def test_invariants(problem):
    grounding, sink, recipe, content = problem
    result = pseudo_labels(grounding, sink, recipe, content)
    labels = result.labels
    assert labels.shape == grounding.shape
    counts = [int((labels == value).sum()) for value in (1, 0, IGNORE)]
    assert counts == [result.n_foreground, result.n_background, result.n_ignore]
    assert sum(counts) == labels.size
    foreground = labels == 1
    is_sink = sink >= recipe.sink_threshold
    assert not (foreground & is_sink).any()
    if result.outcome is not LabelOutcome.OK:
        assert (labels == IGNORE).all()
        return
    x0, y0, x1, y1 = result.box
    inside = np.zeros(labels.shape, dtype=bool)
    inside[y0:y1, x0:x1] = True
    assert foreground.any()
    assert not (foreground & ~inside).any()
    assert inside.sum() < recipe.max_box_fraction * labels.size
    padding = ~content if recipe.padding_is_sink else np.zeros_like(content)
    assert not (foreground & padding).any()
    assert (labels[padding] == 0).all()
    assert not (labels[inside & ~padding] == 0).any()
    assert (labels[is_sink & ~inside] == 0).all()
    lowest = grounding[foreground].min()
    assert (grounding[(labels == 0) & ~is_sink & ~padding] < lowest).all()


@given(problems(), st.sampled_from([0.25, 2.0, 8.0]))
def test_labels_do_not_depend_on_the_scale(problem, factor):
    """Powers of two, so that scaling is exact."""
    grounding, sink, recipe, content = problem
    recipe = dataclasses.replace(recipe, min_peak=0.0)
    grounding = grounding.astype(np.float64)
    plain = pseudo_labels(grounding, sink, recipe, content)
    scaled = pseudo_labels(grounding * factor, sink, recipe, content)
    np.testing.assert_array_equal(plain.labels, scaled.labels)


def test_a_recipe_survives_json():
    recipe = LabelRecipe(
        grounding={21: (9, 11), 22: (0, 7)},
        sink={8: (1, 13), 2: ALL_HEADS},
        sink_threshold=1e-2,
        min_peak=5e-3,
        box_blur=True,
        padding_is_sink=True,
    )
    assert LabelRecipe.from_json(recipe.to_json()) == recipe
    assert LabelRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.layers == (2, 8, 21, 22)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grounding": {}}, "no head"),
        ({"grounding": {3: ()}}, "at least one"),
        ({"grounding": {3: (1, 1)}}, "distinct"),
        ({"grounding": {-1: (1,)}}, "layer"),
        ({"grounding": {3: (1.5,)}}, "head in layer 3"),
        ({"grounding": {3: "some"}}, "'all'"),
        ({"grounding": [3]}, "map layers to heads"),
        ({"sink_threshold": 0.0}, "sink_threshold"),
        ({"foreground": 0.05}, "background 0.1 and foreground 0.05"),
        ({"max_box_fraction": 1.5}, "max_box_fraction"),
        ({"min_peak": -1.0}, "min_peak"),
    ],
)
def test_impossible_recipes_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        LabelRecipe(**{"grounding": {3: (1,)}, **fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ("{}", "grounding is missing"),
        (
            '{"grounding": {"1": [2]}, "forground": 0.2}',
            "'forground'; did you mean 'foreground'",
        ),
    ],
)
def test_broken_recipe_files_are_refused(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        LabelRecipe.from_json(text)
    assert "\n" not in str(caught.value)

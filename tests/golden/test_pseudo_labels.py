"""Pseudo-labels against the published numbers, exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sdrpn_core.grid.geometry import PaddedSquare
from sdrpn_core.labels.pseudo import IGNORE, LabelOutcome, ThresholdLabeler
from sdrpn_core.labels.recipe import LabelRecipe

HEADS = {0: (0,)}
PADDED_SQUARE = LabelRecipe(HEADS, HEADS)
DYNAMIC_MIN_PEAK = 5e-3


def half_open(inclusive_yxyx):
    y0, x0, y1, x1 = (int(value) for value in inclusive_yxyx)
    return x0, y0, x1 + 1, y1 + 1


def rows_of(data):
    """Each pair as the published code saw it: cast to its own dtype, on its square grid."""
    cells = round(data["grounding_attn"].shape[1] ** 0.5)
    for index, dtype in enumerate(data["dtype"]):
        maps = (
            data[name][index].astype(str(dtype)).reshape(cells, cells)
            for name in ("grounding_attn", "sink_attn")
        )
        yield index, *maps


def transposed_labels(grounding, sink, recipe):
    """The published on-the-fly variant, with the box it misreads.

    Its box helper answers (column, row, column + 1, row + 1); the caller reads (row, column, row,
    column), all inclusive. So the box is transposed and one cell larger on the far sides. It also
    works in float32 and finds the box among values above 1e-9.
    """
    grounding, sink = grounding.astype(np.float32), sink.astype(np.float32)
    clean = np.where(sink >= np.float32(recipe.sink_threshold), np.float32(0), grounding)
    labels = np.full(clean.shape, IGNORE)
    foreground = clean > np.float32(recipe.foreground) * clean.max()
    rows, columns = np.nonzero(foreground & (clean > 1e-9))
    if not rows.size:
        return labels
    top, bottom, left, right = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    if (bottom - top + 1) * (right - left + 1) >= recipe.max_box_fraction * clean.size:
        return labels
    outside = np.ones(clean.shape, dtype=bool)
    outside[top : bottom + 1, left : right + 1] = False
    labels[outside & (clean < np.float32(recipe.background) * clean.max())] = 0
    labels[foreground] = 1
    return labels


@pytest.mark.golden_files("llava/pseudo_labels.npz")
def test_padded_square_labels(golden_file, load):
    data = load(golden_file)
    label = ThresholdLabeler(PADDED_SQUARE)
    for index, grounding, sink in rows_of(data):
        ours = label(grounding, sink)
        message = f"row {index} ({data['case'][index]})"
        np.testing.assert_array_equal(ours.labels.ravel(), data["labels_numpy"][index], message)
        if ours.outcome is LabelOutcome.NO_FOREGROUND:
            full = (0, 0, *sink.shape[::-1])
            assert (ours.box, half_open(data["fg_bbox_numpy"][index])) == (None, full), message
        else:
            assert ours.box == half_open(data["fg_bbox_numpy"][index]), message
        foreground, background, ignored = data["stats_numpy"][index][:3]
        assert (ours.n_foreground, ours.n_background) == (foreground, background), message
        if ours.outcome is LabelOutcome.OK:
            assert ours.n_ignore == ignored, message
        else:
            # The published count is taken before the whole sample is ignored.
            assert ours.n_ignore == sink.size, message


@pytest.mark.golden_files("llava/pseudo_labels.npz")
def test_transposed_box_explains_every_difference_of_the_other_variant(golden_file, load):
    """The published on-the-fly variant misreads its own box; that defect is not reproduced."""
    data = load(golden_file)
    label = ThresholdLabeler(PADDED_SQUARE)
    for index, grounding, sink in rows_of(data):
        published = data["labels_torch"][index].reshape(sink.shape)
        explained = transposed_labels(grounding, sink, PADDED_SQUARE)
        np.testing.assert_array_equal(explained, published, f"row {index}")
        ours = label(grounding, sink).labels
        both = (ours != IGNORE).any() and (published != IGNORE).any()
        if both:
            np.testing.assert_array_equal(ours == 1, published == 1, f"row {index}")


def dynamic_recipe(arguments):
    return LabelRecipe(
        HEADS,
        HEADS,
        sink_threshold=arguments["sink_thresh"],
        foreground=arguments["binary_coff"],
        background=arguments.get("bg_coff", 0.1),
        max_box_fraction=arguments.get("max_ratio_limit", 0.5),
        min_peak=DYNAMIC_MIN_PEAK,
        box_blur=True,
        padding_is_sink=arguments["mask_known_bg"],
        smoothing=arguments.get("use_smoothing", False),
    )


def dynamic_cases(file, load):
    data = load(file)
    for case in json.loads(file.with_suffix(".json").read_text()):
        prefix = f"{case['i']:02d}/"
        arrays = {
            name.removeprefix(prefix): array
            for name, array in data.items()
            if name.startswith(prefix)
        }
        yield case, arrays


@pytest.mark.golden_files("qwen2_5_vl/pseudo_labels.npz")
def test_dynamic_resolution_labels(golden_file, load):
    for case, arrays in dynamic_cases(golden_file, load):
        arguments, message = case["args"], f"case {case['i']} ({case['why']})"
        known = arrays.get("known_fg")
        ours = ThresholdLabeler(dynamic_recipe(arguments))(
            arrays["grounding"], arrays["sink"], None if known is None else known.astype(bool)
        )
        if arguments.get("ab_sink") and arguments.get("ab_fg_bbox"):
            # With both published ablations on there are no labels: the map itself is returned.
            np.testing.assert_array_equal(arrays["labels"], arrays["grounding"], message)
            continue
        expected = arrays["labels"]
        if arguments.get("for_vis"):
            # Only for drawing: ignored cells carry another number.
            expected = np.where(expected == -1, IGNORE, expected)
        np.testing.assert_array_equal(ours.labels, expected, message)
        background, foreground, ignored = case["counts_bg_fg_ignore"]
        counts = (ours.n_background, ours.n_foreground, ours.n_ignore)
        assert counts == (background, foreground, ignored), message
        if ours.box is None:
            assert ours.outcome is LabelOutcome.NO_FOREGROUND, message
        else:
            assert ours.box == half_open(arrays["fg_bbox_yxyx"]), message


@pytest.mark.golden_files("qwen2_5_vl/pseudo_labels.npz")
def test_content_covers_the_published_padding_rule(golden_file, load):
    """The published rule rounds down to whole cells; ours counts every cell the image touches."""
    pixels_per_cell = 28
    for case, arrays in dynamic_cases(golden_file, load):
        if "known_fg" not in arrays or case["image_size_wh"] is None:
            continue
        known = arrays["known_fg"].astype(bool)
        side = pixels_per_cell * known.shape[0]
        content = PaddedSquare(tuple(case["image_size_wh"]), known.shape, side).content()
        assert (content | ~known).all(), case["i"]
        for axis in (0, 1):
            assert content.any(axis).sum() <= known.any(axis).sum() + 2, case["i"]

"""The generator: deterministic, exact boxes, answers that can be scored, splits that keep apart."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from sdrpn_core.grid.geometry import Resized
from sdrpn_glyphs.dataset import SPLITS, is_correct, items, make_item
from sdrpn_glyphs.families.base import CELL_PIXELS, INPUT_SIZE
from sdrpn_glyphs.patch_labels import patch_labels
from sdrpn_glyphs.questions import FORMS, ask, vocabulary
from sdrpn_glyphs.scenes import (
    FULL_BOX,
    IMAGE_SIZE,
    KINDS,
    SceneSpec,
    make_scene,
    render,
    render_index,
)
from sdrpn_glyphs.training_crops import CELL, GRID, MIN_CROP, training_crop

SEEDS = range(20)


@pytest.mark.parametrize("split", SPLITS)
def test_items_are_deterministic(split: str) -> None:
    first, again = list(items(split, 5, seed=3)), list(items(split, 8, seed=3))
    assert first == again[:5]
    assert first[0].image.tobytes() == again[0].image.tobytes()
    assert first != list(items(split, 5, seed=4))


def test_splits_and_seeds_share_no_scene() -> None:
    scenes = [
        item.scene for split in SPLITS for seed in range(3) for item in items(split, 50, seed)
    ]
    assert len(set(scenes)) == len(scenes)


def test_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="glyphs/small"):
        make_item("glyphs/smal", 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_are_the_extent_of_the_pixels(seed: int) -> None:
    scene = make_scene(random.Random(seed), SceneSpec(count=(1, 6), width=(0.045, 0.3)))
    pixels = np.asarray(render(scene)).astype(int)
    index = np.asarray(render_index(scene))
    changed = (pixels != scene.background).any(axis=-1)
    assert (changed == (index > 0)).all()
    for shape in scene.shapes:
        x0, y0, x1, y1 = shape.box
        inside = np.zeros_like(changed)
        inside[y0:y1, x0:x1] = True
        rows, columns = np.nonzero(changed & inside)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == shape.box
        dot_x, dot_y = (shape.dot_box[0] + shape.dot_box[2]) // 2, sum(shape.dot_box[1::2]) // 2
        assert tuple(pixels[dot_y, dot_x]) == shape.dot_rgb
        assert shape.dot != shape.color
    assert len({shape.color for shape in scene.shapes}) == len(scene.shapes)
    assert changed.sum() == sum(_area(changed, shape.box) for shape in scene.shapes)


def _area(mask: np.ndarray, box: tuple[int, int, int, int]) -> int:
    x0, y0, x1, y1 = box
    return int(mask[y0:y1, x0:x1].sum())


def test_the_dot_is_about_a_pixel_on_small_objects_and_seen_in_a_crop() -> None:
    scale = INPUT_SIZE / IMAGE_SIZE
    for item in items("glyphs/small", 50):
        shape = next(s for s in item.scene.shapes if s.box == item.boxes[0])
        dot_width = shape.dot_box[2] - shape.dot_box[0]
        assert dot_width * scale < 1.5
        crop_scale = INPUT_SIZE / (2 * shape.size)
        assert dot_width * crop_scale > 6
    for item in items("glyphs/visible", 50):
        shape = next(s for s in item.scene.shapes if s.box == item.boxes[0])
        assert (shape.dot_box[2] - shape.dot_box[0]) * scale > 2.4


@pytest.mark.parametrize("topic", FORMS)
def test_answers_start_with_the_asked_color(topic: str) -> None:
    for seed in SEEDS:
        rng = random.Random(seed)
        scene = make_scene(rng, SceneSpec(count=(1, 6), width=(0.05, 0.2)))
        question = ask(rng, scene, topic)
        words = question.answer.split()
        assert words[0] == question.shape.color
        assert " ".join(words[1:]) == question.target
        spoken = question.text.lower().replace("?", " ?").replace(".", " .").split()
        assert {*spoken, *words} <= set(vocabulary())


def test_scorer_takes_free_form_answers() -> None:
    item = make_item("glyphs/small", 0)
    color, dot = item.answer.split()
    for right in (item.answer, f"  {dot.upper()}. ", f"a {dot} dot on the {color} shape"):
        assert is_correct(right, item)
    for wrong in ("", color, "no idea", f"{dot} {color}"):
        assert not is_correct(wrong, item)


def test_patch_labels_follow_the_view() -> None:
    rng = random.Random(0)
    scene = make_scene(rng, SceneSpec(count=(1, 1), width=(0.25, 0.25)))
    shape = scene.shapes[0]
    whole = Resized((IMAGE_SIZE, IMAGE_SIZE), (GRID, GRID), CELL_PIXELS)
    flat, counted = patch_labels(scene, render_index(scene), FULL_BOX, whole)
    labels = flat.reshape(GRID, GRID, -1)
    center_x, center_y = (int(c / CELL) for c in shape.center)
    assert labels[center_y, center_x].any()
    assert counted.all()
    x0, y0, x1, y1 = shape.box
    outside = np.ones((GRID, GRID), bool)
    outside[y0 // CELL : -(-y1 // CELL), x0 // CELL : -(-x1 // CELL)] = False
    assert not labels[outside].any()
    crop = Resized((x1 - x0, y1 - y0), (GRID, GRID), CELL_PIXELS)
    crop_labels, _ = patch_labels(scene, render_index(scene), shape.box, crop)
    assert crop_labels.reshape(GRID, GRID, -1)[GRID // 2, GRID // 2].any()


def test_training_crops_lie_in_the_image() -> None:
    rng = random.Random(0)
    scene = make_scene(rng, SceneSpec(count=(4, 6), width=(0.05, 0.2)))
    for _ in range(200):
        x0, y0, x1, y1 = training_crop(rng, rng.choice(scene.shapes))
        assert 0 <= x0 <= x1 - MIN_CROP <= IMAGE_SIZE - MIN_CROP
        assert 0 <= y0 <= y1 - MIN_CROP <= IMAGE_SIZE - MIN_CROP


def test_every_kind_is_drawn() -> None:
    kinds = {s.kind for item in items("glyphs/small", 50) for s in item.scene.shapes}
    assert kinds == set(KINDS)


def test_data_modules_import_no_torch() -> None:
    code = (
        "import sys, sdrpn_glyphs.dataset, sdrpn_glyphs.questions;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

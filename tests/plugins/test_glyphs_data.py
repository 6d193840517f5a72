"""The generator: deterministic, exact boxes, one right answer, labels that follow the view."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import label as connected

from sdrpn_core.errors import InputError
from sdrpn_core.grid.geometry import Resized
from sdrpn_glyphs.dataset import SPLITS, make_question
from sdrpn_glyphs.families.base import CELL_PIXELS
from sdrpn_glyphs.marks import VALUES, Mark, draw_mark, ink
from sdrpn_glyphs.metric import GlyphsAnswer
from sdrpn_glyphs.packed import MAX_ASPECT as PACKED_ASPECT
from sdrpn_glyphs.packed import packed_scene
from sdrpn_glyphs.patch_labels import LABELS, WORDS, patch_labels
from sdrpn_glyphs.questions import ANSWERS, NONE, Question, answered, vocabulary
from sdrpn_glyphs.records import GlyphRecords, is_correct
from sdrpn_glyphs.scenes import (
    COLOR_JITTER,
    GAP,
    LONG_SIDE,
    MAX_ASPECT,
    MAX_OBJECTS,
    MIN_OBJECTS,
    Distractor,
    _draw_distractor,
    render,
    render_index,
)
from sdrpn_glyphs.shapes import COLORS, KINDS
from sdrpn_glyphs.training_crops import MIN_CROP, object_crop, wrong_crop

N = 120


def _questions(split: str, n: int = N) -> list[Question]:
    return [make_question(split, index) for index in range(n)]


@pytest.mark.parametrize("split", SPLITS)
def test_records_are_the_same_every_time(split: str) -> None:
    first, again = GlyphRecords(split, 3, 5), GlyphRecords(split, 8, 5)
    for index in range(3):
        one, other = first[index], again[index]
        assert (one.id, one.question, one.answers, one.boxes) == (
            other.id,
            other.question,
            other.answers,
            other.boxes,
        )
        assert one.images[0].tobytes() == other.images[0].tobytes()
    assert first[0].question != GlyphRecords(split, 1, 6)[0].question or (
        first[0].images[0].tobytes() != GlyphRecords(split, 1, 6)[0].images[0].tobytes()
    )


def test_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="glyphs/small"):
        make_question("glyphs/smal", 0)


def test_splits_and_seeds_share_no_scene() -> None:
    textures = [
        make_question(split, index, seed).scene.texture
        for split in SPLITS
        for seed in range(2)
        for index in range(40)
    ]
    assert len(set(textures)) == len(textures)


def test_scenes_keep_their_promises() -> None:
    aspects, counts = [], []
    for question in _questions("glyphs/mixed"):
        scene = question.scene
        everything = [*scene.objects, *scene.clutter]
        counts.append(len(everything))
        width, height = scene.size
        assert max(scene.size) == LONG_SIDE
        aspects.append(width / height)
        squares = [(one.x, one.y, one.size) for one in everything]
        for number, (x, y, side) in enumerate(squares):
            assert 0 <= x - GAP < x + side + GAP <= width
            assert 0 <= y - GAP < y + side + GAP <= height
            for left, top, other in squares[:number]:
                across = max(left - (x + side), x - (left + other))
                down = max(top - (y + side), y - (top + other))
                assert max(across, down) >= GAP
        colors = [one.color for one in scene.objects]
        assert len(set(colors)) == len(colors)
        assert all(one.mark.value != one.color for one in scene.objects)
    assert MIN_OBJECTS <= min(counts) < 8
    assert 14 < max(counts) <= MAX_OBJECTS
    assert 1 / MAX_ASPECT * 0.99 <= min(aspects) < 0.5
    assert 2 < max(aspects) <= MAX_ASPECT * 1.01


def test_boxes_are_the_extent_of_what_is_drawn() -> None:
    for question in _questions("glyphs/mixed", 30):
        index = np.asarray(render_index(question.scene))
        for number, one in enumerate(question.scene.objects, start=1):
            rows, columns = np.nonzero(index == number)
            x0, y0, x1, y1 = one.box
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == one.box
            left, top, right, bottom = one.mark_box
            assert x0 <= left < right <= x1
            assert y0 <= top < bottom <= y1


@pytest.mark.parametrize(
    ("split", "least", "most"),
    [
        ("glyphs/small", 0.05, 0.09),
        ("glyphs/pairs", 0.05, 0.09),
        ("glyphs/visible", 0.18, 0.30),
        ("glyphs/mixed", 0.05, 0.30),
    ],
)
def test_what_is_asked_about_is_as_large_as_the_split_says(split, least, most) -> None:
    widths = [one.size / LONG_SIDE for question in _questions(split) for one in question.objects]
    half_a_pixel = 0.5 / LONG_SIDE
    assert least - half_a_pixel <= min(widths) < least * 1.2
    assert most * 0.85 < max(widths) <= most + half_a_pixel


def test_two_regions_of_a_pair_are_far_apart() -> None:
    for question in _questions("glyphs/pairs", 60):
        (first, second) = (one.center for one in question.objects)
        assert np.hypot(first[0] - second[0], first[1] - second[1]) >= 0.4 * LONG_SIDE


def test_a_color_that_is_not_there_is_not_among_the_outlines() -> None:
    for question in _questions("glyphs/absent", 60):
        color = COLORS[question.answer.split()[0]]
        outlines = [one for one in question.scene.clutter if one.stroke is not None]
        for one in outlines:
            assert np.abs(np.subtract(one.rgb, color)).max() > 2 * COLOR_JITTER


@pytest.mark.parametrize("split", SPLITS)
def test_boxes_are_those_of_what_the_question_names(split: str) -> None:
    for number, record in enumerate(GlyphRecords(split, 20, 0)):
        scene = make_question(split, number).scene
        box = {one.color: one.box for one in scene.objects}
        words = record.question.lower().replace("?", " ").replace(".", " ").split()
        asked = [word for word in words if word in COLORS]
        needs_no_region = record.answer.split()[-1] in (NONE, "yes", "no")
        assert record.boxes == (() if needs_no_region else tuple(box[color] for color in asked))


def test_a_shape_that_is_named_is_that_of_all_that_is_asked_about() -> None:
    named = set()
    for split in ("glyphs/mixed", "glyphs/pairs"):
        for question in _questions(split, 200):
            kinds = [word for word in question.text.strip("?.").split() if word in KINDS]
            if kinds and question.objects:
                assert {one.kind for one in question.objects} == {*kinds}
                named.add(len(question.objects))
    assert named == {1, 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [24, 144])
def test_marks_lie_in_their_shape(kind: str, size: int) -> None:
    """But for the rims of some pips."""
    shape = Image.new("L", (size, size), 0)
    KINDS[kind](ImageDraw.Draw(shape), (0, 0, size, size), 255)
    for mark, values in VALUES.items():
        for value in values:
            inside = (np.asarray(shape) > 0)[_ink(mark, value, kind, size)].mean()
            assert inside >= (0.94 if mark == "pips" else 1), (mark, value)


@pytest.mark.parametrize("size", [40, 120])
def test_marks_show_their_value(size: int) -> None:
    for value in VALUES["pips"]:
        _, found = connected(_ink("pips", value, "square", size))
        assert found == int(value)
    direction = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
    assert set(direction) == set(VALUES["arrow"])
    for value, (down, across) in direction.items():
        rows, columns = np.nonzero(_ink("arrow", value, "square", size))
        shift = np.array([rows.mean(), columns.mean()]) - (size - 1) / 2
        # The head is heavier than the shaft.
        assert shift @ (down, across) > 0.01 * size
        assert abs(shift @ (across, down)) < 0.01 * size


def _ink(mark: str, value: str, kind: str, size: int) -> np.ndarray:
    """The pixels of a mark without its object, in a square of the object's size."""
    image = Image.new("RGB", (size, size))
    draw_mark(ImageDraw.Draw(image), Mark(mark, value, (255, 255, 255)), kind, 0, 0, size)
    return np.asarray(image).max(axis=-1) > 127


def test_ink_stands_out_from_its_object() -> None:
    weights = np.array([0.3, 0.59, 0.11])
    for rgb in COLORS.values():
        assert abs(weights @ ink(random.Random(0), rgb) - weights @ rgb) > 80


@pytest.mark.parametrize(
    ("kind", "share"),
    [("square", 1), ("circle", np.pi / 4), ("triangle", 0.5), ("diamond", 0.5), ("cross", 0.64)],
)
def test_a_shape_covers_what_its_name_says(kind: str, share: float) -> None:
    image = Image.new("L", (200, 200), 0)
    KINDS[kind](ImageDraw.Draw(image), (0, 0, 200, 200), 1)
    assert np.asarray(image).mean() == pytest.approx(share, abs=0.01)


def test_outlines_are_hollow_and_closed() -> None:
    for kind in KINDS:
        image = Image.new("L", (60, 60), 0)
        _draw_distractor(image, ImageDraw.Draw(image), Distractor(kind, 10, 10, 40, 255, 3))
        ink = np.asarray(image) > 0
        rows, columns = np.nonzero(ink)
        assert (rows.min(), columns.min(), rows.max(), columns.max()) == (10, 10, 49, 49)
        outside, n_parts = connected(~ink)
        assert n_parts == 2
        assert outside[30, 30] != outside[0, 0]


def test_a_split_has_a_thousand_records_unless_it_is_told_otherwise() -> None:
    assert [len(GlyphRecords("glyphs/small", n, 0)) for n in (None, 7)] == [1000, 7]


def test_marks_are_seen_in_the_pixels() -> None:
    """The same scene with another value differs inside the mark's box and hardly elsewhere."""
    for question in _questions("glyphs/small", 20):
        (asked,) = question.objects
        values = [v for v in VALUES[asked.mark.kind] if v not in (asked.mark.value, asked.color)]
        rgb = COLORS[values[0]] if asked.mark.kind == "dot" else asked.mark.rgb
        other = replace(asked, mark=replace(asked.mark, value=values[0], rgb=rgb))
        rest = question.scene.objects[1:]
        changed = replace(question.scene, objects=(other, *rest))
        before, after = (
            np.asarray(render(scene)).astype(int) for scene in (question.scene, changed)
        )
        difference = np.abs(before - after).sum(axis=-1)
        x0, y0, x1, y1 = asked.mark_box
        inside = difference[y0:y1, x0:x1].max()
        assert inside > 100
        difference[y0 - 8 : y1 + 8, x0 - 8 : x1 + 8] = 0  # JPEG works on blocks of 8 pixels
        assert difference.max() < inside


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_told_by_the_scene(split: str) -> None:
    for question in _questions(split, 60):
        words = question.answer.split()
        assert words[-1] == question.target
        assert question.target in ANSWERS[question.topic]
        shown = {one.color: one for one in question.scene.objects}
        asked = [word for word in question.text.lower().replace("?", " ").split() if word in COLORS]
        if question.target == NONE or question.target == "no":
            assert asked[0] not in shown
            assert question.objects == ()
        elif question.topic in VALUES:
            assert shown[asked[0]].mark.kind == question.topic
            assert words == [asked[0], shown[asked[0]].mark.value]
        elif question.topic == "pair":
            one, other = (shown[color] for color in asked)
            assert words == [one.color, one.mark.value, other.color, other.mark.value]
            assert one.mark.kind == other.mark.kind
        else:
            assert question.target == "yes"
            assert asked[0] in shown


def test_the_vocabulary_has_every_word() -> None:
    known = set(vocabulary())
    for split in SPLITS:
        for question in _questions(split, 40):
            text = question.text.lower()
            for mark in "?.:,":
                text = text.replace(mark, f" {mark} ")
            assert {*text.split(), *question.answer.split()} <= known


def test_mixed_has_every_topic_and_hidden_and_visible_details() -> None:
    found = _questions("glyphs/mixed", 300)
    assert {question.topic for question in found} == set(ANSWERS)
    without = [question for question in found if not question.objects]
    assert 0.1 < len(without) / len(found) < 0.4
    assert any(question.target == NONE for question in found)
    assert {one.kind for question in found for one in question.scene.objects} == set(KINDS)


@pytest.mark.parametrize(
    ("prediction", "topic", "answer"),
    [
        ("red yellow", "dot", "yellow"),
        ("Yellow.", "dot", "yellow"),
        ("(yellow)", "dot", "yellow"),
        ("'Up'; surely!", "arrow", "up"),
        ('I count: "4", no?', "pips", "4"),
        ("red", "dot", "red"),
        ("red none", "character", "none"),
        ("the red one says K", "character", "k"),
        ("red yellow blue green", "pair", "red yellow blue green"),
        ("The red one has a yellow dot, the blue one K.", "pair", "red yellow blue k"),
        ("no idea", "pair", None),
        ("", "pips", None),
    ],
)
def test_answers_are_read_from_free_text(prediction: str, topic: str, answer: str | None) -> None:
    assert answered(prediction, topic) == answer


def test_records_are_scored_by_their_topic() -> None:
    record = GlyphRecords("glyphs/small", 1, 0)[0]
    assert record.answer is not None
    assert is_correct(record.answer, record)
    color, value = record.answer.split()
    wrong = next(word for word in VALUES[record.category or ""] if word not in (value, color))
    assert not is_correct(f"{color} {wrong}", record)
    assert not is_correct("", record)


def test_packed_scenes_show_marks_in_most_of_their_cells() -> None:
    shown = []
    for seed in range(30):
        scene = packed_scene(random.Random(seed))
        for one in scene.objects:
            x0, y0, x1, y1 = one.box
            assert 0 <= x0 < x1 <= scene.size[0]
            assert 0 <= y0 < y1 <= scene.size[1]
        assert max(scene.size) / min(scene.size) <= PACKED_ASPECT * 1.01
        index = render_index(scene)
        assert sorted(set(np.unique(np.asarray(index))) - {0}) == list(
            range(1, len(scene.objects) + 1)
        )
        whole = Resized(scene.size, (10, 10), CELL_PIXELS)
        labels, known = patch_labels(scene, index, scene.full_box, whole)
        shown.append((labels * known)[:, LABELS["mark"]].any(axis=-1).mean())
    assert np.mean(shown) > 0.5


def test_a_record_that_cannot_be_scored_is_refused() -> None:
    (record,) = GlyphRecords("glyphs/small", 1, 0)
    metric = GlyphsAnswer()
    metric.check(record)
    for broken in (
        replace(record, category=None),
        replace(record, category="size"),
        replace(record, answers=("red large",)),
    ):
        # Nothing known in the answer and nothing in the response is no match.
        assert not is_correct("", broken)
        with pytest.raises(InputError, match="needs one of the categories dot, character"):
            metric.check(broken)
    with pytest.raises(InputError, match="has no answer"):
        metric.check(replace(record, answers=()))


def test_patch_labels_follow_the_view() -> None:
    """In the whole image a small mark is unknown; a crop of the object labels it."""
    for question in _questions("glyphs/small", 20):
        (asked,) = question.objects
        scene, index = question.scene, render_index(question.scene)
        width, height = scene.size
        grid = (max(1, round(10 * height / LONG_SIDE)), max(1, round(10 * width / LONG_SIDE)))
        whole = Resized(scene.size, grid, CELL_PIXELS)
        _, known = patch_labels(scene, index, scene.full_box, whole)
        assert not known[:, LABELS["mark"]].all()
        x0, y0, x1, y1 = asked.box
        crop = Resized((x1 - x0, y1 - y0), (10, 10), CELL_PIXELS)
        labels, known = patch_labels(scene, index, asked.box, crop)
        here = labels[:, LABELS["mark here"]]
        assert set(np.nonzero(here)[1]) == {WORDS.index(asked.mark.value)}
        assert known.all()
        middle = labels.reshape(10, 10, -1)[5, 5]
        assert middle[LABELS["color"]].tolist().index(1) == list(COLORS).index(asked.color)


def test_training_crops_lie_in_the_image() -> None:
    rng = random.Random(0)
    for question in _questions("glyphs/mixed", 60):
        width, height = question.scene.size
        for box in (
            object_crop(rng, question.scene, rng.choice(question.scene.objects)),
            wrong_crop(rng, question.scene),
        ):
            x0, y0, x1, y1 = box
            assert 0 <= x0 <= x1 - MIN_CROP <= width - MIN_CROP
            assert 0 <= y0 <= y1 - MIN_CROP <= height - MIN_CROP


def test_scenes_are_drawn_without_torch() -> None:
    code = (
        "import sys, sdrpn_glyphs.records;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

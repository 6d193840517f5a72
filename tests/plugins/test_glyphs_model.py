"""The embedded backbones: how they are made, the training batches, and the folders that ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from sdrpn_bench.known_boxes import BoxChoice, KnownBoxes
from sdrpn_core import Question, UnknownNameError, answer_batch, load_backbone
from sdrpn_core.grid.geometry import PaddedSquare, Resized
from sdrpn_glyphs import ASSETS, backbone_dir, rpn_dir
from sdrpn_glyphs.cell_batches import CellBatches
from sdrpn_glyphs.families import NAMES, family
from sdrpn_glyphs.families.base import MAX_NEW_TOKENS, Budget
from sdrpn_glyphs.losses import answer_logits, visual_tokens
from sdrpn_glyphs.marks import Mark
from sdrpn_glyphs.patch_labels import LABELS, patch_labels
from sdrpn_glyphs.pretrain import train_backbone
from sdrpn_glyphs.question_batches import MODES, QuestionBatches
from sdrpn_glyphs.records import GlyphRecords, is_correct
from sdrpn_glyphs.scenes import Object, Scene, render_index
from sdrpn_glyphs.shapes import COLORS

MAX_FOLDER_BYTES = 12_000_000

TINY_BUDGET = Budget(
    cell_steps=2,
    cell_batch=4,
    align_steps=2,
    question_steps=3,
    question_batch=2,
    checkpoint_every=1,
    workers=0,
)


@pytest.fixture(scope="module", params=sorted(NAMES))
def fresh(request):
    torch.manual_seed(0)
    return family(request.param).build()


def test_there_is_no_fourth_family() -> None:
    with pytest.raises(UnknownNameError, match="llava"):
        family("lava")


def test_the_tokenizer_knows_every_word(fresh) -> None:
    tokenizer = fresh.tokenizer
    for record in GlyphRecords("glyphs/mixed", 30, 0):
        ids = fresh.tokenize(record.question, 1)
        assert ids.count(fresh.image_token_id) == 1
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(fresh.tokenize_response(record.answer)) == record.answer


def test_a_square_image_has_a_hundred_tokens(fresh) -> None:
    assert fresh.preprocess(Image.new("RGB", (480, 480))).geometry.grid == (10, 10)


def test_batches_are_a_function_of_seed_and_step(fresh) -> None:
    batches = QuestionBatches(fresh, 0, "questions", steps=50, size=2)
    counts = set()
    for step in range(0, len(batches), 3):
        batch, again = batches[step], batches[step]
        assert batch.images.grids == again.images.grids
        for name, tensor in batch.images.tensors.items():
            assert torch.equal(tensor, again.images.tensors[name])
        for sample, other in zip(batch.samples, again.samples, strict=True):
            assert sample.prompt_ids == other.prompt_ids
            assert sample.answer_ids == other.answer_ids
            assert sample.answer_ids[-1] == fresh.tokenizer.eos_token_id
        counts.add(len(batch.images.grids) // 2)
    assert counts <= {1 + mode.crops for mode in MODES}
    assert len(counts) > 1


def _of_image(values: torch.Tensor, row: int, images) -> torch.Tensor:
    """One image's part of a tensor, which has a row per image, or per patch."""
    if len(values) == len(images.grids):
        return values[row : row + 1]
    per_token = len(values) // sum(h * w for h, w in images.grids)
    return values.split([h * w * per_token for h, w in images.grids])[row]


@torch.no_grad()
def test_the_training_forward_is_the_stock_forward(fresh) -> None:
    batch = QuestionBatches(fresh, 0, "questions", steps=1, size=2)[0]
    found, labels = answer_logits(fresh, batch, visual_tokens(fresh, batch.images))
    tensors, start = batch.images.tensors, 0
    for row, sample in enumerate(batch.samples):
        tokens = len(visual_tokens(fresh, batch.images)[row])
        ids = [*sample.prompt_ids, *sample.answer_ids]
        place = ids.index(fresh.image_token_id)
        ids[place : place + 1] = [fresh.image_token_id] * tokens
        pixels = {name: _of_image(values, row, batch.images) for name, values in tensors.items()}
        stock = fresh.model(
            input_ids=torch.tensor([ids]),
            mm_token_type_ids=torch.tensor([[int(i == fresh.image_token_id) for i in ids]]),
            **pixels,
        ).logits[0]
        stop = start + len(sample.answer_ids)
        expected = stock[-len(sample.answer_ids) - 1 : -1]
        torch.testing.assert_close(found[start:stop], expected, atol=1e-4, rtol=1e-4)
        assert labels[start:stop].tolist() == list(sample.answer_ids)
        start = stop


def test_a_teacher_sees_the_same_cells(fresh) -> None:
    teacher = family("llava").build()
    batch = CellBatches(fresh, 0, "cells", steps=1, size=24, teacher=teacher)[0]
    assert len(batch.labels) == sum(h * w for h, w in batch.images.grids)
    assert batch.teacher_images is not None
    assert int(batch.shared.sum()) == sum(h * w for h, w in batch.teacher_images.grids)
    assert len(batch.teacher_images.grids) >= 3  # the whole images, at least


def _scene(x: int, y: int, size: int) -> Scene:
    mark = Mark("dot", "blue", COLORS["blue"])
    return Scene((480, 480), (Object("square", "red", mark, x, y, size, COLORS["red"]),), (), 0)


def test_labels_follow_the_geometry() -> None:
    scene = _scene(96, 240, 96)  # cells 2 and 3 across, 5 and 6 down
    index = render_index(scene)
    red = LABELS["color"].start + list(COLORS).index("red")
    expected = np.zeros((10, 10), bool)
    expected[5:7, 2:4] = True
    for geometry in (PaddedSquare((480, 480), (10, 10), 80), Resized((480, 480), (10, 10), 8)):
        labels, _ = patch_labels(scene, index, scene.full_box, geometry)
        np.testing.assert_array_equal(labels[:, red].reshape(10, 10).astype(bool), expected)


def test_padding_has_no_label() -> None:
    scene = _scene(96, 240, 96)
    view = (96, 240, 192, 288)  # the upper half of the square, twice as wide as high
    labels, _ = patch_labels(scene, render_index(scene), view, PaddedSquare((96, 48), (10, 10), 80))
    rows = labels[:, LABELS["color"]].any(axis=1).reshape(10, 10)
    assert rows[3:7].all()
    assert not rows[:2].any()
    assert not rows[8:].any()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_training_resumes_to_the_same_weights(name, tmp_path: Path) -> None:
    def stop(stage: str, step: int) -> None:
        if (stage, step) == ("questions", 2):
            raise KeyboardInterrupt

    train_backbone(tmp_path / "whole", name, budget=TINY_BUDGET)
    with pytest.raises(KeyboardInterrupt):
        train_backbone(tmp_path / "stopped", name, budget=TINY_BUDGET, on_checkpoint=stop)
    train_backbone(tmp_path / "stopped", name, budget=TINY_BUDGET)
    whole, stopped = (
        AutoModelForImageTextToText.from_pretrained(tmp_path / run).state_dict()
        for run in ("whole", "stopped")
    )
    assert all(torch.equal(whole[key], stopped[key]) for key in whole)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"llava"}))
def test_what_is_inherited_speaks_the_teachers_words(name) -> None:
    chosen = family(name)
    torch.manual_seed(0)
    new, old = chosen.build(), load_backbone(backbone_dir(chosen.teacher), device="cpu")
    chosen.inherit(new, old)
    for word in ("red", "dot", "square", "what"):
        ours, theirs = (b.tokenizer.convert_tokens_to_ids(word) for b in (new, old))
        assert torch.equal(new.embedding.weight[ours], old.embedding.weight[theirs])
    mlp = "layers.3.mlp.down_proj.weight"
    assert torch.equal(new.decoder.get_parameter(mlp), old.decoder.get_parameter(mlp))
    last_head = old.decoder.get_parameter("layers.2.self_attn.k_proj.weight")[-32:]
    assert torch.equal(
        new.decoder.get_parameter("layers.2.self_attn.k_proj.weight")[-32:], last_head
    )


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_shipped_folder_is_small_and_complete(name) -> None:
    files = [p for p in backbone_dir(name).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < MAX_FOLDER_BYTES
    assert {"chat_template.jinja", "README.md", "generation_config.json"} <= {p.name for p in files}
    assert {"README.md", "model.safetensors"} <= {p.name for p in rpn_dir(name).iterdir()}


def test_nothing_else_ships() -> None:
    assert {path.name for path in ASSETS.iterdir()} == {
        folder(name).name for name in NAMES for folder in (backbone_dir, rpn_dir)
    }


def _right(backbone, records, proposer=None):
    questions = [Question(record.question, record.images) for record in records]
    answers = answer_batch(backbone, questions, proposer, max_new_tokens=MAX_NEW_TOKENS)
    return [is_correct(found.text, record) for found, record in zip(answers, records, strict=True)]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_shipped_backbone_reads_visible_marks_and_crops(name) -> None:
    backbone = load_backbone(backbone_dir(name), device="cpu")
    assert backbone.model.config.model_type == name
    assert sum(_right(backbone, list(GlyphRecords("glyphs/visible", 40, 11)))) >= 32
    small = list(GlyphRecords("glyphs/small", 40, 11))
    crops = KnownBoxes([BoxChoice(record.boxes, margin=0.5) for record in small])
    assert sum(_right(backbone, small, crops)) >= 32


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_shipped_backbone_answers_about_an_image_that_is_not_square(name) -> None:
    backbone = load_backbone(backbone_dir(name), device="cpu")
    records = GlyphRecords("glyphs/visible", 20, 3)
    record = next(record for record in records if record.images[0].size[0] > 600 // 2)
    (prompt,) = backbone.encode([Question(record.question, record.images)])
    h, w = prompt.images[0].grid
    assert len(prompt.images[0]) == h * w

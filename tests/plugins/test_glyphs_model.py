"""The toy LLaVA: tokenizer, processor, training batches, and the folder that ships."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from sdrpn_glyphs import BACKBONE_DIR
from sdrpn_glyphs.batches import IGNORE, MODES, QuestionBatches
from sdrpn_glyphs.dataset import is_correct, items
from sdrpn_glyphs.evaluate import answer, box_with_margin
from sdrpn_glyphs.losses import answer_logits
from sdrpn_glyphs.model import (
    IMAGE,
    PROMPT,
    build_model,
    build_processor,
    build_tokenizer,
    normalise,
)
from sdrpn_glyphs.pretrain import Budget, train_backbone
from sdrpn_glyphs.probe import auc, box_cells
from sdrpn_glyphs.views import GRID, show

MAX_FOLDER_BYTES = 8_000_000
needs_assets = pytest.mark.skipif(
    not (BACKBONE_DIR / "model.safetensors").exists(), reason=f"no backbone in {BACKBONE_DIR}"
)


def test_tokenizer_round_trip() -> None:
    tokenizer = build_tokenizer()
    for item in items("glyphs/small", 20):
        ids = tokenizer(PROMPT.format(images=IMAGE, question=item.question))["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
        words = tokenizer(item.answer, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(words) == item.answer


def test_processor_shows_what_training_shows() -> None:
    item = next(items("glyphs/small", 1))
    processor = build_processor(build_tokenizer())
    inputs = processor(images=item.image, text=f"USER: {IMAGE}\n", return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == GRID * GRID
    ours = normalise(torch.from_numpy(show(item.image).copy()))
    one_level = 1 / 255 / 0.25
    assert (ours - inputs["pixel_values"][0]).abs().max() < 1.5 * one_level


def test_chat_template_drops_the_system_message() -> None:
    processor = build_processor(build_tokenizer())
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}
    system = {"role": "system", "content": "A chat."}
    expected = "USER: <image>\nWhere? ASSISTANT:"
    for messages in ([user], [system, user]):
        assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected


def test_batches_are_a_function_of_seed_and_step() -> None:
    tokenizer = build_tokenizer()
    batches = QuestionBatches(0, "questions", steps=50, size=2, warm_up=1, tokenizer=tokenizer)
    views = set()
    for step in range(len(batches)):
        batch = batches[step]
        assert all(torch.equal(v, batches[step][k]) for k, v in batch.items())
        assert (batch["ids"] == tokenizer.convert_tokens_to_ids(IMAGE)).sum() == batch["kept"].sum()
        spoken = batch["labels"] != IGNORE
        assert torch.equal(batch["labels"][spoken], batch["ids"][spoken])
        views.add(len(batch["pixels"]) // 2)
    assert views == {1 + mode.crops for mode in MODES}


def test_training_forward_is_the_stock_forward() -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).eval()
    batch = QuestionBatches(0, "questions", steps=1, size=2, warm_up=1, tokenizer=tokenizer)[0]
    with torch.inference_mode():
        logits, labels = answer_logits(model, batch)
        stock = model(input_ids=batch["ids"], pixel_values=normalise(batch["pixels"])).logits
    wanted = batch["labels"][:, 1:] != IGNORE
    torch.testing.assert_close(logits, stock[:, :-1][wanted], atol=1e-5, rtol=1e-4)
    assert torch.equal(labels, batch["labels"][:, 1:][wanted])


def test_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    sizes = {"vision_batch": 2, "align_batch": 2, "question_batch": 2}
    steps = {
        "vision_steps": 2,
        "align_steps": 1,
        "question_steps": 3,
        "joint_steps": 1,
        "checkpoint_every": 1,
    }
    budget = Budget(**sizes, **steps, question_warm_up=1)
    train_backbone(tmp_path / "whole", budget=budget)
    with pytest.raises(KeyboardInterrupt):
        train_backbone(tmp_path / "stopped", budget=budget, on_checkpoint=_stop_in_questions)
    train_backbone(tmp_path / "stopped", budget=budget)
    whole, stopped = (
        AutoModelForImageTextToText.from_pretrained(tmp_path / name).state_dict()
        for name in ("whole", "stopped")
    )
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def _stop_in_questions(stage: str, step: int) -> None:
    if (stage, step) == ("questions", 2):
        raise KeyboardInterrupt


def test_auc_and_box_cells() -> None:
    cells = box_cells((47, 96, 97, 120))
    assert cells.sum() == 3
    assert cells[2, :3].all()
    inside = cells.ravel()
    assert auc(inside.astype(float) + torch.rand(inside.size).numpy() * 0.1, inside) == 1.0


@needs_assets
def test_shipped_folder_is_small_and_loads() -> None:
    files = [p for p in BACKBONE_DIR.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < MAX_FOLDER_BYTES
    assert {"chat_template.jinja", "README.md", "generation_config.json"} <= {p.name for p in files}
    config = AutoModelForImageTextToText.from_pretrained(BACKBONE_DIR).config
    assert config.model_type == "llava"


@needs_assets
def test_shipped_backbone_reads_visible_dots_and_crops() -> None:
    model = AutoModelForImageTextToText.from_pretrained(BACKBONE_DIR).eval()
    processor = AutoProcessor.from_pretrained(BACKBONE_DIR)
    visible = list(items("glyphs/visible", 20, seed=11))
    right = [
        is_correct(a, i) for a, i in zip(answer(model, processor, visible), visible, strict=True)
    ]
    assert sum(right) >= 17
    small = list(items("glyphs/small", 20, seed=11))
    answers = answer(model, processor, small, box_with_margin)
    assert sum(is_correct(a, i) for a, i in zip(answers, small, strict=True)) >= 17

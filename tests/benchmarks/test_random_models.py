"""The random models of the benchmarks are ordinary folders with the grids that were asked for."""

from __future__ import annotations

from random_llava import write_random_llava
from random_qwen2_5_vl import CELL, write_random_qwen2_5_vl

from sdrpn_core import Question, answer_batch, load_backbone
from tests.tiny import tiny_image


def answered(folder, size):
    backbone = load_backbone(folder, device="cpu")
    assert len(list(folder.glob("*.safetensors"))) > 1
    question = Question.about(tiny_image(size=size), "what is written there ?")
    (prompt,) = backbone.encode([question])
    (answer,) = answer_batch(backbone, [question], None, max_new_tokens=3, min_new_tokens=3)
    assert len(answer.ids) == 3
    return prompt.images[0].grid


def test_llava(tmp_path):
    write_random_llava(tmp_path, n_layers=2, width=64, grid=6, shard_size="5MB")
    assert answered(tmp_path, (90, 60)) == (6, 6)


def test_qwen2_5_vl(tmp_path):
    write_random_qwen2_5_vl(tmp_path, n_layers=2, width=256, shard_size="5MB")
    assert answered(tmp_path, (6 * CELL, 32 * CELL)) == (32, 6)

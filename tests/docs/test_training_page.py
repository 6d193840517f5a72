"""The page on training: its Python example, on the model that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdrpn_core import label, load_backbone
from sdrpn_core.data.read import read_records
from sdrpn_glyphs import backbone_dir
from tests.docs.fences import run_blocks

PAGE = "docs/training.md"


def test_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backbone = load_backbone(backbone_dir(), device="cpu")
    label(backbone, read_records("glyphs/train", n=16), "runs/labels", max_new_tokens=4)
    names = run_blocks(PAGE, {})
    assert names["result"].steps == 2
    assert (tmp_path / "runs/rpn/rpn/model.safetensors").is_file()
    inputs = names["inputs"]
    assert len(inputs.backbone.layers) < len(backbone.layers)

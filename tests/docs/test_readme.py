"""The README's examples run as they stand, on the model that ships."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from sdrpn_core.cli.main import main
from sdrpn_glyphs import backbone_dir, rpn_dir
from sdrpn_glyphs.export_command import export
from tests.docs.fences import run_blocks, shell_lines

#: Stands in the README for any backbone; here it is the one that ships.
MODEL = "llava-hf/llava-1.5-7b-hf"


def test_python_examples(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_blocks("README.md", {})
    assert names["found"].outcome is not None
    assert names["features"].hidden.shape[0] == 1
    assert names["response_rows"].shape[-1] == names["stop"] - names["start"]
    assert "expected:" in capsys.readouterr().out


def test_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jsonl = export(tmp_path, "glyphs/small", 6)
    shutil.copy(jsonl, tmp_path / "DATA.jsonl")
    shutil.copy(jsonl, tmp_path / "test.jsonl")
    shutil.copy(tmp_path / "images/00000.png", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    commands = [line for line in shell_lines("README.md") if line.startswith("sdrpn ")]
    assert {shlex.split(line)[1] for line in commands} >= {
        "plugins",
        "label",
        "train",
        "ask",
        "roi",
        "bench",
        "glyphs",
    }
    for line in commands:
        with pytest.raises(SystemExit) as end:
            main(shlex.split(line.replace(MODEL, str(backbone_dir())))[1:])
        assert not end.value.code, f"{line}: {capsys.readouterr().err}"
    for made in ("runs/labels/manifest.json", "runs/rpn/rpn/model.safetensors", "out.png"):
        assert (tmp_path / made).is_file()
    for made in ("heat.png", "runs/bench/report.md", "runs/images/data.jsonl"):
        assert (tmp_path / made).is_file()
    assert str(rpn_dir()) in capsys.readouterr().out

"""The pages on training and on several processes: Python examples and commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from sdrpn_core import RPN, LabelDataset, load_backbone, read_records
from sdrpn_core.cli.main import main
from sdrpn_glyphs import backbone_dir
from sdrpn_glyphs.export_command import export
from tests.docs.fences import run_blocks, shell_lines

TRAINING = "docs/training.md"
DISTRIBUTED = "docs/distributed.md"
N_RECORDS = 8
#: Answers of the small model are two words.
LABEL = "sdrpn label DATA.jsonl --model MODEL --out runs/labels --max-new-tokens 4"


def sdrpn(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line)[1:])
    assert not end.value.code, f"{line}: {capsys.readouterr().err}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with ``MODEL`` and ``DATA.jsonl``, as on the pages."""
    (tmp_path / "MODEL").symlink_to(backbone_dir())
    export(tmp_path, "glyphs/small", N_RECORDS).rename(tmp_path / "DATA.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_training_page_runs_in_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sdrpn(LABEL, capsys)
    talk = [{"from": "human", "value": "<image>\nIs it red?"}, {"from": "gpt", "value": "no"}]
    mixture = [
        {"id": "1", "image": "gqa/images/1.jpg", "conversations": talk * 2},
        {"id": "2", "image": "ocr_vqa/images/2.jpg", "conversations": talk},
        {"id": "3", "image": "coco/train2017/3.jpg", "conversations": talk},
        {"id": "4", "conversations": talk},
    ]
    (folder / "llava_v1_5_mix665k.json").write_text(json.dumps(mixture))
    names = run_blocks(TRAINING, {})
    parts = [read_records(f"{name}.jsonl") for name in ("PHOTOS", "TEXTS")]
    assert [(len(part), Path(part[0].images[0]).name) for part in parts] == [
        (2, "1.jpg"),
        (1, "2.jpg"),
    ]
    assert names["result"].steps == 2
    inputs = names["inputs"]
    whole = load_backbone("MODEL")
    assert len(whole.layers) > len(inputs.backbone.layers)
    assert RPN.from_pretrained("runs/rpn/rpn", backbone=whole).branch == inputs.config.branch


def test_the_training_page_runs_on_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sdrpn(LABEL, capsys)
    data = folder / "DATA.jsonl"
    for name in ("PHOTOS", "TEXTS"):
        half = data.read_text().splitlines()[name == "TEXTS" :: 2]
        data.with_name(f"{name}.jsonl").write_text("\n".join(half))
    labels = [line for line in shell_lines(TRAINING) if line.startswith("sdrpn label ")]
    assert len(labels) == 3
    (folder / "DYNAMIC").symlink_to(backbone_dir("qwen2_5_vl"))
    for line in labels:
        # The small model has one recipe, of another name.
        sdrpn(line.replace("natural --", "glyphs --").replace("text --", "glyphs --"), capsys)
    lines = [line for line in shell_lines(TRAINING) if line.startswith("sdrpn train ")]
    assert len(lines) == 6
    answered = data.read_text().replace('"answer"', '"response"')
    data.with_name("answered.jsonl").write_text(answered)
    for number, line in enumerate(lines):
        line = line.replace("runs/rpn", f"runs/rpn{number}")
        line = line.replace("DATA.jsonl", "answered.jsonl")  # --lazy needs responses
        sdrpn(line.replace("/scratch/features", str(folder / "features")), capsys)
        out = folder / shlex.split(line)[shlex.split(line).index("--out") + 1]
        assert (out / "rpn/model.safetensors").is_file()
        assert (out / "trackers").exists() == ("--tracker" in line)
    assert (folder / "features" / "features.json").is_file()


def test_the_page_on_several_processes_labels_from_python(folder: Path) -> None:
    replace = {
        "/shared/labels": str(folder / "labels"),
        '"ray")(workers=16)': '"local")()',  # the same interface, without a cluster
        "progress=True": "progress=False",
    }
    names = run_blocks(DISTRIBUTED, {}, replace)
    assert sum(names["summary"].counts.values()) == N_RECORDS
    assert len(LabelDataset(folder / "labels")) == N_RECORDS

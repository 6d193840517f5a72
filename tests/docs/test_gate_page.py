"""The page on gates: its commands and its Python example, on the model that ships."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from sdrpn_core import RPN, GateObjective, load_backbone
from sdrpn_core.cli.main import main
from sdrpn_core.gate.utility_labels import DEFAULT_INDIFFERENCE
from sdrpn_core.labels.judged import DEFAULT_MARGIN
from sdrpn_glyphs import backbone_dir
from sdrpn_glyphs.export_command import export
from tests.docs.fences import ROOT, run_blocks, shell_lines

PAGE = "docs/gate.md"
N_RECORDS = 6
#: Answers of the small model are two words.
SHORT = "--max-new-tokens 4"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with ``MODEL``, an RPN and records, as on the page."""
    (tmp_path / "MODEL").symlink_to(backbone_dir())
    (tmp_path / "DYNAMIC").symlink_to(backbone_dir("qwen2_5_vl"))
    records = export(tmp_path, "glyphs/small", N_RECORDS).rename(tmp_path / "DATA.jsonl")
    (tmp_path / "HELDOUT.jsonl").symlink_to(records)
    RPN.from_backbone(load_backbone(backbone_dir())).save_pretrained(tmp_path / "runs/rpn/rpn")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    utility, train, calibrate, bench, ladder, by_budget, sure, cascade = shell_lines(PAGE)
    for line in (
        f"{utility} {SHORT} --candidates 0",
        train,
        f"{calibrate} {SHORT}",
        bench,
        f"{sure} {SHORT}",
        cascade,
    ):
        with pytest.raises(SystemExit) as end:
            main(shlex.split(line)[1:])
        assert not end.value.code, f"{line}: {capsys.readouterr().err}"
    config = json.loads((folder / "runs/gate/rpn/config.json").read_text())
    assert config["gate"]["calibration"]["n"] == N_RECORDS
    assert "region skipped" in (folder / "runs/bench/report.md").read_text()
    assert "cascade[confidence_threshold=0.95]" in (folder / "runs/cascade/report.md").read_text()
    names = run_blocks(PAGE, {}, {"runs/gate": "runs/other"})
    assert names["result"].rpn.config.gate.options == {"n_layers": 1}

    with pytest.raises(SystemExit) as end:
        main(shlex.split(f"{ladder} {SHORT}")[1:])
    assert not end.value.code
    dynamic = RPN.from_backbone(load_backbone("DYNAMIC"))
    dynamic.save_pretrained("runs/dynamic/rpn")
    with pytest.raises(SystemExit) as end:
        main(shlex.split(by_budget)[1:])
    # So few questions need not hold one that fails at low budgets alone.
    errors = capsys.readouterr().err
    assert not end.value.code or "fails at low budgets alone" in errors, errors


def test_the_defaults_are_those_of_the_code() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert f"`--margin` ({DEFAULT_MARGIN} nats" in page
    assert f"`--indifference` ({DEFAULT_INDIFFERENCE} nats" in page
    assert f"{GateObjective.defaults['global_batch_size']} questions per step" in page

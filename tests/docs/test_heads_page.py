"""The page on finding heads: its commands and its example run, on the model that ships."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from sdrpn_core.backbone.recipe_file import RecipeFile
from sdrpn_core.cli.main import main
from sdrpn_glyphs import backbone_dir
from tests.docs.fences import run_blocks, shell_lines

PAGE = "docs/heads.md"

#: Fewer records than on the page, which would take minutes.
FEWER = (("--n 200", "--n 24 --max-new-tokens 4"), ("--n 1500", "--n 32 --max-new-tokens 4"))


def test_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = shell_lines(PAGE)
    assert [shlex.split(line)[1] for line in lines] == ["heads", "label", "train"]
    for line in lines:
        for many, few in FEWER:
            line = line.replace(many, few)
        with pytest.raises(SystemExit) as end:
            main(shlex.split(line.replace("MODEL", str(backbone_dir())))[1:])
        assert not end.value.code, f"{line}: {capsys.readouterr().err}"
    found = RecipeFile.from_json((tmp_path / "recipe.json").read_text())
    config = json.loads((tmp_path / "runs/rpn/rpn/config.json").read_text())
    assert (config["branch"], config["n_layers"]) == (found.branch, found.n_layers)
    assert config["recipe"] == found.recipe.to_dict()
    assert (tmp_path / "recipe.png").is_file()


def test_python_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_blocks(PAGE, {})
    assert names["report"].better_than_chance
    assert names["best"].pointing > 0.5
    assert RecipeFile.from_json((tmp_path / "recipe.json").read_text()).branch
    assert capsys.readouterr().out.endswith("True\n")

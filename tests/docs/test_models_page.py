"""The page on models: its examples, on the model that ships."""

from __future__ import annotations

import shlex

import pytest
from huggingface_hub import ModelCard

from sdrpn_core import open_image
from sdrpn_core.cli.main import main
from sdrpn_glyphs import rpn_dir
from tests.docs.fences import run_blocks, shell_lines

PAGE = "docs/models.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run_blocks(PAGE, {})
    assert names["answer"].text == names["result"]["generated_text"]
    assert names["answer"].boxes == names["result"]["boxes"] == names["proposal"].boxes
    assert [one["input_text"] for one in names["results"]] == [i["text"] for i in names["inputs"]]
    assert names["strict"].rpn is names["model"].rpn
    card = ModelCard.load(tmp_path / "my-rpn" / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.eval_results[0].metric_args["interval"] == [0.895, 0.930]
    open_image(names["image"]).save(tmp_path / "photo.jpg")
    (line,) = shell_lines(PAGE)
    with pytest.raises(SystemExit) as end:
        main([*shlex.split(line.replace("RPN", str(rpn_dir())))[1:], "--max-new-tokens", "2"])
    assert not end.value.code

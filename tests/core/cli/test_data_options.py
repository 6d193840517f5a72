"""Commands read data as their options say, and say what is wrong before a model is loaded."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from sdrpn_core.cli.main import app

COMMANDS = {
    "label": ["label", "DATA", "--model", "NONE"],
    "train": ["train", "DATA", "--lazy", "--model", "NONE"],
    "heads": ["heads", "DATA", "--model", "NONE"],
    "bench": ["bench", "--data", "DATA", "--models", "NONE"],
}


@pytest.fixture
def run(tmp_path):
    row = {"query": "q?", "img": "a.png", "label": "x", "resp": "x", "box": [0, 0, 2, 2]}
    data = tmp_path / "data.json"
    data.write_text(json.dumps([row]))
    columns = ["question=query", "image=img", "answer=label", "response=resp", "boxes=box"]

    def invoke(name, *options, columns=columns):
        words = {"DATA": str(data), "NONE": str(tmp_path / "no model")}
        arguments = [words.get(word, word) for word in COMMANDS[name]]
        for column in columns:
            arguments += ["--column", column]
        out = tmp_path / ("out.json" if name == "heads" else "out")
        found = CliRunner().invoke(app, [*arguments, *options, "--out", str(out)])
        assert found.exit_code == 1, found.output
        return found.stderr.strip().splitlines()[-1]

    return invoke


@pytest.mark.parametrize("name", COMMANDS)
def test_columns_are_mapped(run, name):
    assert "'question' is missing: --column question=query" in run(name, columns=[])
    assert "'nothing' is missing" in run(name, "--column", "category=nothing")
    # All is well with the data: the model is what is missing.
    assert "no model" in run(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_options_are_one_line(run, name):
    assert run(name, "--column", "question=other") == "error: --column 'question' is given twice"
    assert run(name, "--column", "category") == "error: --column 'category': write FIELD=COLUMN"
    assert "is one file, which has no splits" in run(name, "--split", "test")
    assert "did you mean 'category'" in run(name, "--column", "categori=x")


def test_a_label_run_has_no_columns(tmp_path):
    arguments = ["train", str(tmp_path), "--model", "none", "--out", "out", "--split", "test"]
    found = CliRunner().invoke(app, arguments)
    assert found.stderr == "error: a label run has no option 'split': it is for --lazy\n"

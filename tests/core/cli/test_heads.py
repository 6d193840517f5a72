"""``sdrpn heads``, and its recipe file in ``label`` and ``train``: output, errors, all the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sdrpn_core.backbone.recipe_file import RecipeFile
from sdrpn_core.cli.main import app
from tests.stage_data import RECIPE, records
from tests.tiny import write_tiny_llava

SIZES = ("--batch-size", "4", "--max-new-tokens", "3")
FAST = ("--steps", "1", "--global-batch-size", "8", "--batch-size", "4", "--lr", "1e-3")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_tiny_llava(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for record in records(8, answered=True):
        record.images[0].save(folder / f"{record.id}.png")
        lines.append(
            {
                "id": record.id,
                "image": f"{record.id}.png",
                "question": record.question,
                "response": record.response,
                "boxes": [[10, 10, 30, 25]],
            }
        )
    (folder / "boxed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line in lines:
        del line["boxes"]
    (folder / "unboxed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def sdrpn(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def error_line(result: Result) -> str:
    """The one line of an error; transformers' loading bar may stand before it."""
    last = result.stderr.rstrip("\n").splitlines()[-1]
    assert last.startswith("error: ")
    return last


@pytest.fixture(scope="module")
def found(model, data, tmp_path_factory) -> Path:
    """A recipe file; its map beside it."""
    out = tmp_path_factory.mktemp("found") / "recipe.json"
    result = sdrpn("heads", data / "boxed.jsonl", "--model", model, "--out", out, *SIZES)
    assert result.exit_code == 0, result.stderr
    for text in (
        "best heads of 8 samples",
        "pointing",
        "grounding",
        "branch layer B = ",
        "random cells",
    ):
        assert text in result.stdout
    return out


def test_the_recipe_and_the_map_are_written(found):
    assert sorted(path.name for path in found.parent.iterdir()) == ["recipe.json", "recipe.png"]
    assert found.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    written = RecipeFile.from_json(found.read_text())
    assert written.branch + written.n_layers <= 6
    assert written.provenance["data"]["seed"] == 0


def test_json_reports_the_same(model, data, found, tmp_path):
    words = ("--out", tmp_path / "r.json", "--map", tmp_path / "m.png", "--json", *SIZES)
    result = sdrpn("heads", data / "boxed.jsonl", "--model", model, *words)
    report = json.loads(result.stdout)
    assert report["recipe"] == json.loads(found.read_text())["recipe"]
    assert (report["n"], report["skipped"]) == (8, [])
    assert report["map"] == str(tmp_path / "m.png")
    assert {head["role"] for head in report["heads"]} <= {"grounding", "sink"}
    assert report["joint"]["n"] == 4
    # A random model looks nowhere in particular, and eight samples could not show otherwise.
    assert not report["better_than_chance"]
    assert "warning: " in result.stderr
    assert "follow" in result.stderr


def test_the_recipe_goes_through_label_train_and_roi(model, data, found, tmp_path):
    """No preset matches the model: all that is needed comes from the file."""
    labels, run = tmp_path / "labels", tmp_path / "run"
    source = data / "boxed.jsonl"
    made = sdrpn("label", source, "--model", model, "--out", labels, "--recipe", found, *SIZES)
    assert made.exit_code == 0, made.stderr
    trained = sdrpn("train", labels, "--model", model, "--out", run, "--recipe", found, *FAST)
    assert trained.exit_code == 0, trained.stderr
    config = json.loads((run / "rpn" / "config.json").read_text())
    written = json.loads(found.read_text())
    assert (config["branch"], config["n_layers"]) == (written["branch"], written["n_layers"])
    assert config["recipe"] == written["recipe"]
    shown = sdrpn("roi", data / "r0.png", "which one?", "-m", model, "--rpn", run / "rpn", "--json")
    assert shown.exit_code == 0, shown.stderr


def test_options_win_over_the_file(model, data, found, tmp_path):
    words = ("--recipe", found, "--branch", 1, "--layers", 1, *FAST)
    result = sdrpn(
        "train", data / "boxed.jsonl", "--lazy", "--model", model, "--out", tmp_path, *words
    )
    assert result.exit_code == 0, result.stderr
    config = json.loads((tmp_path / "rpn" / "config.json").read_text())
    assert (config["branch"], config["n_layers"]) == (1, 1)


def changed(found: Path, path: Path, **values) -> Path:
    path.write_text(json.dumps({**json.loads(found.read_text()), **values}))
    return path


@pytest.mark.parametrize("stage", ["label", "train"])
def test_a_recipe_that_does_not_fit_is_one_line(model, data, found, tmp_path, stage):
    other = str(write_tiny_llava(tmp_path / "other", seed=1))
    deep = changed(found, tmp_path / "deep.json", recipe={"grounding": {"9": [0]}})
    bare = tmp_path / "bare.json"
    bare.write_text(RECIPE.to_json().replace('"3"', '"7"'))
    lazy = ("--lazy", *FAST) if stage == "train" else ()
    for chosen, recipe, message in (
        (other, found, "made for another backbone"),
        (model, deep, "deep.json: label recipe: grounding names layer 9, but the decoder has"),
        (model, bare, "bare.json: label recipe: grounding names layer 7, but the decoder has"),
        (model, tmp_path / "missing.json", "cannot read the label recipe"),
    ):
        words = ("--model", chosen, "--out", tmp_path / "out", "--recipe", recipe, *lazy)
        result = sdrpn(stage, data / "boxed.jsonl", *words)
        assert result.exit_code == 1
        assert message in error_line(result)
        assert not (tmp_path / "out").exists()


def test_mistakes_are_one_line_and_leave_nothing(model, data, tmp_path):
    for words, message in (
        ((data / "unboxed.jsonl", "--out", tmp_path / "r.json"), "record 'r0': no boxes"),
        ((data / "boxed.jsonl", "--out", tmp_path / "r.txt"), "must end in .json"),
        ((data / "boxed.jsonl", "--out", tmp_path / "no" / "r.json"), "no such folder"),
        (
            (data / "boxed.jsonl", "--out", tmp_path / "r.json", "--map", "map.jpg"),
            "must end in .png",
        ),
        (
            (data / "boxed.jsonl", "--out", tmp_path / "r.json", "--recipe-option", "x=1"),
            "unknown field 'x'",
        ),
    ):
        result = sdrpn("heads", *words, "--model", model, *SIZES)
        assert result.exit_code == 1, result.stdout
        assert message in error_line(result)
    assert list(tmp_path.iterdir()) == []

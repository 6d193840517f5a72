"""Heads, labels, an RPN, an answer and a benchmark, for each family, from the command line."""

from __future__ import annotations

import json
from functools import partial

import pytest
from typer.testing import CliRunner

from sdrpn_core.cli.main import app
from sdrpn_core.crops.policy import Outcome
from tests.tiny_gemma3 import write_tiny_gemma3
from tests.tiny_mistral3 import write_tiny_mistral3
from tests.tiny_qwen3_vl import write_tiny_qwen3_vl
from tests.tiny_smolvlm import write_tiny_smolvlm

WRITERS = {
    "qwen3_vl": write_tiny_qwen3_vl,
    "gemma3": write_tiny_gemma3,
    # With a window that leaves the responses a view of the images.
    "mistral3": partial(write_tiny_mistral3, window=100),
    "smolvlm": write_tiny_smolvlm,
}
BRIEF = ("--max-new-tokens", "3", "--batch-size", "4")
#: Random weights look everywhere: boxes of any size count.
ANYWHERE = ("--recipe-option", "foreground=0.9", "--recipe-option", "max_box_fraction=1")


def sdrpn(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("family", WRITERS)
def test_from_heads_to_a_benchmark(family, tmp_path):
    model = WRITERS[family](tmp_path / "model")
    recipe, labels, runs = tmp_path / "recipe.json", tmp_path / "labels", tmp_path / "runs"
    sdrpn("glyphs", tmp_path / "data", "--n", "12")
    data, image = tmp_path / "data/data.jsonl", tmp_path / "data/images/00000.png"
    sdrpn("heads", data, "--model", model, "--n", "8", "--out", recipe, *BRIEF, *ANYWHERE)
    sdrpn("label", data, "--model", model, "--recipe", recipe, "--out", labels, *BRIEF)
    steps = ("--steps", "1", "--global-batch-size", "4", "--batch-size", "4")
    sdrpn("train", labels, "--model", model, "--recipe", recipe, "--out", runs, *steps)
    rpn = runs / "rpn"
    asked = ("what is it ?", "--model", model, "--rpn", rpn, "--max-new-tokens", "3", "--json")
    found = json.loads(sdrpn("ask", image, *asked))
    assert found["outcome"] in {one.value for one in Outcome}
    assert len(found["images"]) == 1
    options = ("--out", tmp_path / "bench", "--n", "4", "--max-new-tokens", "3")
    sdrpn("bench", "--models", f"{model}={rpn}", "--data", data, *options)
    results = json.loads((tmp_path / "bench/results.json").read_text())
    assert {"baseline", "sdrpn"} <= results["methods"].keys()
    assert (tmp_path / "bench/report.md").is_file()

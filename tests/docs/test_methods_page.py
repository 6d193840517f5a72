"""The page on methods lists all of them, and its examples run."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from sdrpn_bench import BenchModel, run_benchmark
from sdrpn_core import RPN, Record, hookimpl, load_backbone
from sdrpn_core.cli.main import main
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_glyphs import backbone_dir, rpn_dir
from sdrpn_glyphs.export_command import export
from tests.docs.fences import ROOT, run_blocks, shell_lines
from tests.tiny import tiny_image
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

METHODS = "docs/methods.md"
PAGE = (ROOT / METHODS).read_text(encoding="utf-8")


def test_every_method_is_in_the_table():
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert listed == set(get_plugins().methods.names())


def test_the_examples_are_methods(fresh_plugins, tmp_path):
    names = run_blocks(METHODS, {})

    class Theirs:
        SDRPN_API = 1

        @hookimpl
        def sdrpn_register_methods(self, registry):
            registry.add("center", names["Center"], help="crops the middle")
            registry.add("coarse", names["Coarse"], help="few tokens")

    fresh_plugins.register(Theirs(), "theirs")
    records = [Record("a", tiny_image(0, (200, 160)), "what color ?", answers="red")]
    results = run_benchmark(
        BenchModel(tiny_qwen2_5_vl()), ["baseline", "center", "coarse"], records, out=tmp_path,
        max_new_tokens=1, method_options={"coarse": {"visual_tokens": 6}},
    )  # fmt: skip
    tokens = {name: values["visual_tokens"] for name, values in results["methods"].items()}
    assert tokens["coarse"] <= 6 < tokens["baseline"] < tokens["center"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the model, RPNs and records that the page names."""
    (tmp_path / "MODEL").symlink_to(backbone_dir())
    (tmp_path / "RPN").symlink_to(rpn_dir())
    RPN.from_backbone(load_backbone(backbone_dir())).save_pretrained(tmp_path / "OTHER_RPN")
    export(tmp_path, "glyphs/small", 6).rename(tmp_path / "DATA.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line):
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line)[1:])
    return end.value.code


def test_a_comparison_before_anything_is_trained(folder, capsys):
    heads, bench, *_ = shell_lines(METHODS)
    # Fewer records than on the page, which would take minutes.
    for line in (heads.replace("--n 200", "--n 24 --max-new-tokens 4"), bench):
        assert not run(line), f"{line}: {capsys.readouterr().err}"
    recipe = json.loads((folder / "recipe.json").read_text())["recipe"]
    results = json.loads((folder / "runs/new/results.json").read_text())
    assert results["method_options"]["attention"]["recipe"] == recipe
    assert results["methods"]["attention"]["n"] == 6


def test_two_runs_are_compared(folder, capsys):
    one, two, plain, across = shell_lines(METHODS)[2:6]
    for line in (one, two, plain):
        assert not run(line), f"{line}: {capsys.readouterr().err}"
    shown = " ".join(capsys.readouterr().out.split())
    assert "B - A [95%]" in shown
    assert 'models.MODEL.rpn: "RPN" in A, "OTHER_RPN" in B' in shown
    assert not run(across)
    baseline, method = json.loads(capsys.readouterr().out)["comparisons"]
    assert (baseline["n"], baseline["difference"]["value"]) == (6, 0)
    assert method["method"] == {"a": "sdrpn", "b": "attention"}

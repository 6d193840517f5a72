"""The page on methods lists all of them, and its examples run."""

from __future__ import annotations

import re

from sdrpn_bench import BenchModel, run_benchmark
from sdrpn_core import Record, hookimpl
from sdrpn_core.plugins.manager import get_plugins
from tests.docs.fences import ROOT, run_blocks
from tests.tiny import tiny_image
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl

PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_every_method_is_in_the_table():
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert listed == set(get_plugins().methods.names())


def test_the_examples_are_methods(fresh_plugins, tmp_path):
    names = run_blocks("docs/methods.md", {})

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

"""The page on budgets: its examples, on the model that ships, and the families that it names."""

from __future__ import annotations

import pytest

from sdrpn_core.plugins.manager import get_plugins
from tests.docs.fences import ROOT, run_blocks

PAGE = "docs/budgets.md"


def test_python_examples(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_blocks(PAGE, {})
    full, small = names["full"], names["small"]
    assert full.boxes
    assert small.boxes
    assert small.n_visual_tokens <= 64 + 49 * len(small.boxes)
    assert small.n_visual_tokens < full.n_visual_tokens
    assert (names["store"].hits, names["store"].misses) == (1, 2)
    assert capsys.readouterr().out.splitlines()[-1] == "1 2"


def test_it_names_all_families_of_dynamic_resolution() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    listed = page.partition("families of dynamic resolution (")[2].partition(")")[0]
    backbones = get_plugins().backbones
    dynamic = {name for name in backbones.names() if backbones.get(name).dynamic_resolution}
    called = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL", "mistral3": "Mistral 3"}
    assert {called[name] for name in dynamic} == set(listed.replace("\n", " ").split(", "))

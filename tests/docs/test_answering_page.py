"""The page on answering: its examples, on the model that ships."""

from __future__ import annotations

import pytest

from sdrpn_core.runtime.clock import ANSWER_STAGES
from tests.docs.fences import ROOT, run_blocks

PAGE = "docs/answering.md"


def test_python_examples(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_blocks(PAGE, {})
    assert names["index"] == len(names["records"]) - 1
    assert (names["store"].hits, names["store"].misses) == (1, 1)
    first, second = capsys.readouterr().out.splitlines()[-3:-1]
    assert float(first.split()[-1]) > 0 == float(second.split()[-1])


def test_all_stages_are_listed() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert all(f"`{stage}`" in page for stage in ANSWER_STAGES)

"""The page on utility: its example, on the model that ships."""

from __future__ import annotations

import pytest

from tests.docs.fences import run_blocks

PAGE = "docs/utility.md"


def test_python_examples(capsys: pytest.CaptureFixture[str]) -> None:
    run_blocks(PAGE, {})
    lines = capsys.readouterr().out.splitlines()
    by_source = {source: [line for line in lines if f" {source} " in line] for source in SOURCES}
    assert [len(found) for found in by_source.values()] == [4, len(by_source["sampled"]), 4]
    assert all(float(line.rpartition(" ")[2]) > 0.7 for line in by_source["rpn"])


SOURCES = ("rpn", "sampled", "given")

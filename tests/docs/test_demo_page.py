"""The example of the page on the demo runs."""

from __future__ import annotations

from tests.docs.fences import run_blocks


def test_the_example(capsys):
    names = run_blocks("docs/demo.md", {})
    assert names["last"].found == names["record"].answer
    assert "->" in capsys.readouterr().out

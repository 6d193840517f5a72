"""The README's examples run as they stand, on the model that ships."""

from __future__ import annotations

import pytest

from sdrpn_glyphs import BACKBONE_DIR, RPN_DIR
from tests.docs.fences import run_blocks


@pytest.mark.skipif(
    not (BACKBONE_DIR.is_dir() and RPN_DIR.is_dir()), reason="the embedded backbone is not there"
)
def test_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_blocks("README.md", {})
    assert names["found"].outcome is not None
    assert names["features"].hidden.shape[0] == 1
    assert names["response_rows"].shape[-1] == names["stop"] - names["start"]
    assert "expected:" in capsys.readouterr().out

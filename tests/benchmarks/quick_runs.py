"""Quick runs of the benchmarks, each once per session."""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path

import pytest
from run_script import run_script
from suite import SCRIPTS

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="peaks of memory are read as Linux tells them"
)


@functools.cache
def quick_rows(name):
    """What a script prints."""
    (script,) = (script for script in SCRIPTS if script.name == name)
    with tempfile.TemporaryDirectory() as plots:
        rows = run_script(script, quick=True, machine={}, plots=Path(plots)).rows
        drawn = {path.name for path in Path(plots).iterdir()}
    assert drawn == ({script.plot} if script.plot else set())
    return rows

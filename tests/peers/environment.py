"""The environment that has lmms-eval, and what runs in it; ``make peers`` sets it up."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("lmms_eval_scores.py")
VARIABLE = "SDRPN_PEERS_PYTHON"
"""Names another interpreter than the one that ``make peers`` makes."""


def interpreter() -> str:
    """Python of that environment."""
    return os.environ.get(VARIABLE, str(ROOT / ".venv-peers" / "bin" / "python"))


def run(*words: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run its Python with these arguments."""
    return subprocess.run(
        [interpreter(), *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def their_scores(pairs: list[Any], *words: str) -> list[Any]:
    """What the functions of lmms-eval give for pairs."""
    done = run(str(SCRIPT), *words, stdin=json.dumps(pairs))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)

"""The scripts import each other by name, as they do when one of them is run."""

from __future__ import annotations

import sys
from pathlib import Path

# At the end: a script must not shadow a library for the rest of the suite.
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

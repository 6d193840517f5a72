"""The quickstart on few questions: ``python -m tests.plugins.small_quickstart --out FOLDER``."""

from __future__ import annotations

import sys
from types import MappingProxyType

from sdrpn_core.cli.main import main
from sdrpn_glyphs import quickstart

SIZES = MappingProxyType({"N_LABELS": 32, "N_JUDGED": 24, "N_CALIBRATION": 8, "JUDGE_SHARD": 12})
"""By the names of :mod:`sdrpn_glyphs.quickstart`."""

if __name__ == "__main__":
    for name, size in SIZES.items():
        setattr(quickstart, name, size)
    main(["quickstart", *sys.argv[1:]])

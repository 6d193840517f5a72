"""LLaVA: the golden runs in which a given map took the place of the predicted one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest


def forced_names(file: Path) -> list[str]:
    """The names of the runs in ``forced_maps.npz``."""
    with np.load(file, allow_pickle=False) as data:
        return [str(name) for name in data["names"]]


def forced_case(data: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Map, settings and results of one run."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}


#: Runs a test once for each of them.
in_forced_maps = pytest.mark.golden_entries("llava/forced_maps.npz", forced_names)

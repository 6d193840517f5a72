"""What a run ran on: versions and hardware, for the report."""

from __future__ import annotations

import os
import platform

import torch

from sdrpn_core.util.package_versions import package_versions


def environment() -> dict[str, str]:
    """Names and values, all text."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    found |= package_versions("accelerate", "numpy", "pillow")
    found["processors"] = f"{os.cpu_count()} ({torch.get_num_threads()} threads)"
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found

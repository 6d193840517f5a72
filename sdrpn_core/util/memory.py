"""The most memory that this process has used so far, or since a moment that it chose."""

from __future__ import annotations

import re
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What makes Linux count the peak of the resident memory anew."""
_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes where ``device`` has it; ``None`` where the system does not tell.

    Args:
        device: on CUDA what torch's tensors took there; on a CPU what was resident of the whole
            process, libraries and mapped files included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: its peak is inherited from the process that started this one.
    try:
        found = _PEAK.search(_STATUS.read_text(encoding="ascii"))
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def reset_peak_memory(device: torch.device) -> bool:
    """Count the peak anew, from what is in use now.

    Args:
        device: see :func:`peak_memory`.

    Returns:
        Whether that worked; elsewhere than on Linux or CUDA, peaks are those of the whole process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True

"""The most memory that this process has used so far."""

from __future__ import annotations

import re
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
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

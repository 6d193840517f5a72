"""What the benchmarks ran on, for the page of results."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from sdrpn_bench.environment import environment
from sdrpn_core.util.formatting import readable_bytes

_CPU_INFO = Path("/proc/cpuinfo")
_CPU_MODEL = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


def machine_facts() -> dict[str, str]:
    """Names and values, all text: hardware, then versions."""
    software = environment()
    software.pop("accelerator", None)  # the benchmarks run on the CPU
    return {"CPU": _cpu_model(), "memory": _memory(), **software}


def _cpu_model() -> str:
    # platform.processor() is empty or "x86_64" on most Linux systems.
    try:
        found = _CPU_MODEL.search(_CPU_INFO.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return readable_bytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not every system tells
        return "unknown"

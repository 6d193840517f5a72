"""A dataset that kills the process which reads it, once: how a node that is lost looks.

:func:`install` makes a plugin of this module. Its dataset is the JSONL file ``data.jsonl`` in the
folder ``DEADLY``; reading record :data:`DEADLY_RECORD` kills while the file ``armed`` is there and
what it names exists. ``armed-with-parent`` takes the parent, a launcher, down as well.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdrpn_core import hookimpl
from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import Record

SDRPN_API = 1
NAME = "deadly/data"
FOLDER_VARIABLE = "DEADLY"
#: Neither the first, the middle nor the last of 7: those are read to tell datasets apart.
DEADLY_RECORD = 5


class DeadlyRecords(Sequence[Record]):
    """The records of a file, one of which kills."""

    def __init__(self, n: int | None, seed: int) -> None:
        self.folder = Path(os.environ[FOLDER_VARIABLE])
        self.records = read_records(self.folder / "data.jsonl", n=n, seed=seed)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        if index == DEADLY_RECORD:
            for name, pids in (
                ("armed", [os.getpid()]),
                ("armed-with-parent", [os.getppid(), os.getpid()]),
            ):
                armed = self.folder / name
                if armed.exists() and Path(armed.read_text()).exists():
                    armed.unlink()
                    for pid in pids:
                        os.kill(pid, signal.SIGKILL)
        return self.records[index]


@hookimpl
def sdrpn_register_datasets(registry: Any) -> None:
    registry.add(NAME, DeadlyRecords)


def install(site: Path) -> None:
    """Write the metadata of a distribution that has this plugin; ``site`` goes on the path."""
    info = site / "sdrpn_deadly-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sdrpn-deadly\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[sdrpn]\ndeadly = {__name__}\n")

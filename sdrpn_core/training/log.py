"""``train_log.jsonl`` and TensorBoard: one entry every few steps, written by the main process."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.errors import SdrpnError
from sdrpn_core.training.step import StepSums
from sdrpn_core.util.atomic_files import atomic_write

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG_NAME = "train_log.jsonl"


class TrainingLog:
    """Collects steps and writes their means.

    Args:
        folder: of the run.
        accelerator: its trackers get the entries as well.
        first_step: steps done before; later entries of an interrupted run are dropped.

    Attributes:
        last_loss: mean loss of the last entry.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, first_step: int) -> None:
        self.path = folder / LOG_NAME
        self.accelerator = accelerator
        self._sums = StepSums()
        self._since = time.monotonic()
        kept = [line for line in self._lines() if json.loads(line)["step"] <= first_step]
        last = json.loads(kept[-1])["loss"] if kept else None
        self.last_loss = float("nan") if last is None else float(last)
        accelerator.wait_for_everyone()  # all have read it
        if accelerator.is_main_process:
            with atomic_write(self.path) as file:
                file.write("".join(f"{line}\n" for line in kept).encode())

    def add(self, sums: StepSums) -> None:
        """Count a step in the next entry."""
        self._sums += sums

    def write(self, step: int, **numbers: float) -> None:
        """Write an entry for the steps since the last one.

        Args:
            step: optimizer steps done so far.
            numbers: further values (learning rate, gradient norm, epoch).

        Raises:
            SdrpnError: the log cannot be written.
        """
        now = time.monotonic()
        seconds, sums = now - self._since, self._sums
        self._since, self._sums = now, StepSums()
        self.last_loss = sums.mean_loss
        entry: dict[str, Any] = {
            "step": step,
            "loss": sums.mean_loss if sums.cells else None,
            "labeled_cells": int(sums.cells),
            "foreground_cells": int(sums.foreground),
            "samples": int(sums.samples),
            "skipped": int(sums.skipped),
            "samples_per_second": round(sums.samples / max(seconds, 1e-9), 3),
            **numbers,
        }
        if not self.accelerator.is_main_process:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise SdrpnError(f"cannot write {self.path}: {error.strerror}") from error
        scalars = {key: value for key, value in entry.items() if value is not None}
        self.accelerator.log({f"train/{k}": v for k, v in scalars.items() if k != "step"}, step)

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        # A kill can cut the last line short.
        return [line for line in text.splitlines() if line.endswith("}")]

"""``train_log.jsonl`` and trackers: one entry every few steps, written by the main process."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.errors import CheckpointError, SdrpnError
from sdrpn_core.training.step import StepSums
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_core.util.json_files import parse_json_object

if TYPE_CHECKING:
    from accelerate import Accelerator

    from sdrpn_core.training.objective import Objective

LOG_NAME = "train_log.jsonl"


class TrainingLog:
    """Collects steps and writes their means.

    Args:
        folder: of the run.
        accelerator: its trackers get the entries as well.
        objective: names the counts.
        first_step: steps done before; later entries of an interrupted run are dropped.

    Attributes:
        last_loss: mean loss of the last entry.

    Raises:
        CheckpointError: a line of the log that is there is no entry, other than a torn last one.
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, objective: Objective, first_step: int
    ) -> None:
        self.path = folder / LOG_NAME
        self.accelerator = accelerator
        self._objective = objective
        self._sums = StepSums.zero(objective)
        self._since = time.monotonic()
        kept = [entry for entry in _entries(self.path) if entry["step"] <= first_step]
        last = kept[-1]["loss"] if kept else None
        self.last_loss = float("nan") if last is None else float(last)
        accelerator.wait_for_everyone()  # all have read it
        if accelerator.is_main_process:
            with atomic_write(self.path) as file:
                file.write("".join(f"{json.dumps(entry)}\n" for entry in kept).encode())

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
        self._since, self._sums = now, StepSums.zero(self._objective)
        self.last_loss = sums.mean_loss
        entry: dict[str, Any] = {
            "step": step,
            "loss": sums.mean_loss if sums.n else None,
            **dict(zip(self._objective.counts, map(_plain, sums.counts), strict=True)),
            "samples": int(sums.samples),
            "skipped": int(sums.skipped),
            "samples_per_second": round(sums.samples / max(seconds, 1e-9), 3),
            **numbers,
        }
        # JSON has no NaN, which a run that diverges arrives at.
        entry = {k: None if v is None or not math.isfinite(v) else v for k, v in entry.items()}
        if not self.accelerator.is_main_process:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise SdrpnError(f"cannot write {self.path}: {error.strerror}") from error
        scalars = {key: value for key, value in entry.items() if value is not None}
        self.accelerator.log({f"train/{k}": v for k, v in scalars.items() if k != "step"}, step)


def tells_of_learning(folder: Path) -> bool:
    """Whether the log of a run may have an entry of steps that had a label.

    Args:
        folder: of the run; it need not have a log.
    """
    try:
        return any(entry["loss"] is not None for entry in _entries(folder / LOG_NAME))
    except CheckpointError:
        return True  # who opens the log names the line


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")  # a kill can cut the last line short
    return [_entry(line, f"{path}: line {number}") for number, line in enumerate(lines, 1)]


def _plain(count: float) -> float:
    """Whole numbers without a fraction."""
    return int(count) if count.is_integer() else count


def _entry(line: bytes, where: str) -> dict[str, Any]:
    remedy = "delete that line, or start over with --overwrite"
    try:
        entry = parse_json_object(line.decode(), where, CheckpointError)
    except (CheckpointError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{where}: is no log entry: {remedy}") from error
    step, loss = entry.get("step"), entry.get("loss")
    if type(step) is not int or type(loss) not in (int, float, type(None)):
        raise CheckpointError(f"{where}: has no step and loss: {remedy}")
    return entry

"""Training checkpoints: a folder per step that is there complete, or not at all.

    checkpoints/step-00000200/
        rpn/                     the weights, float32, as ``RPN.from_pretrained`` reads them
        optimizer.safetensors    the optimizer's tensors, named <parameter>.<state>
        state.json               format version, step, and the optimizer's numbers

accelerate's ``save_state`` pickles optimizer and random state, so it is not used: a checkpoint
that was handed on must not be able to run code. There is nothing else to store: the learning rate
and the order of the data are functions of the step, and the random numbers of a step (dropout) are
seeded by it.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors

from sdrpn_core.errors import CheckpointError, SdrpnError
from sdrpn_core.rpn.checkpoint import load_rpn_weights
from sdrpn_core.training.optimizer_state import restore_state, split_state
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_core.util.json_files import read_json_object, write_json

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from sdrpn_core.rpn.model import RPN

#: Of the folder's layout. 2: parameter groups name their parameters.
FORMAT_VERSION = 2

_NAME = re.compile(r"step-(\d{8,})")
_UNFINISHED = ".unfinished-"
_DISCARDED = ".discarded-"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run.

    Attributes:
        folder: where they lie.
        keep: how many of them stay.
    """

    folder: Path
    keep: int

    def latest(self) -> int | None:
        """The last step that was saved; ``None`` if there is none."""
        return max(self._steps(), default=None)

    def save(self, step: int, rpn: RPN, optimizer: Optimizer) -> Path:
        """Write a checkpoint, then remove those beyond ``keep``; for one process alone.

        Args:
            step: optimizer steps done so far.
            rpn: what is trained.
            optimizer: its optimizer.

        Raises:
            SdrpnError: it cannot be written; the earlier ones stay.
        """
        final = self._path(step)
        unfinished = final.with_name(_UNFINISHED + final.name)
        try:
            self._remove_leftovers()
            unfinished.mkdir(parents=True)
            rpn.save_pretrained(unfinished / "rpn")
            tensors, numbers = split_state(rpn, optimizer)
            with atomic_write(unfinished / "optimizer.safetensors") as file:
                file.write(to_safetensors(tensors))
            state = {"format_version": FORMAT_VERSION, "step": step, "optimizer": numbers}
            write_json(unfinished / "state.json", state)
            if final.exists():
                _discard(final)
            os.replace(unfinished, final)
            for old in sorted(self._steps())[: -self.keep]:
                _discard(self._path(old))
        except OSError as error:
            raise SdrpnError(f"cannot write the checkpoint {final}: {error.strerror}") from error
        return final

    def load(self, step: int, rpn: RPN, optimizer: Optimizer) -> None:
        """Put an RPN and its optimizer in the state that was saved after ``step`` steps.

        Raises:
            CheckpointError: a file is missing or broken, or does not fit.
        """
        folder = self._path(step)
        state = read_json_object(folder / "state.json", CheckpointError)
        version = state.get("format_version", 1)
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{folder} has format version {version!r}, this sdrpn resumes from "
                f"{FORMAT_VERSION}: start over with --overwrite, or use the sdrpn that wrote it"
            )
        try:
            tensors = load_file(folder / "optimizer.safetensors")
            restore_state(rpn, optimizer, tensors, state["optimizer"])
        except (
            *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError),
            SafetensorError,
        ) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{folder} cannot be resumed from ({reason}): delete it to go on from the one "
                "before"
            ) from error
        load_rpn_weights(rpn, folder / "rpn")

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self.folder.iterdir())
        return [int(match[1]) for match in matches if match]

    def _remove_leftovers(self) -> None:
        """Remove what killed processes left behind."""
        if self.folder.is_dir():
            for entry in self.folder.iterdir():
                if entry.name.startswith((_UNFINISHED, _DISCARDED)):
                    shutil.rmtree(entry)


def _discard(folder: Path) -> None:
    """Remove a checkpoint so that a kill half-way leaves none that looks complete."""
    doomed = folder.with_name(_DISCARDED + folder.name)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)

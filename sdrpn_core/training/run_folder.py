"""The folder of a training run: whose it is, whether it may be continued, how it is started over.

run.json            what decides the weights (the manifest)
checkpoints/        see :mod:`sdrpn_core.training.checkpoints`
rpn/                the result
train_log.jsonl     see :mod:`sdrpn_core.training.log`
trackers/           the same for TensorBoard and other trackers that write to disk
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdrpn_core.errors import CheckpointError, ConfigError, SdrpnError
from sdrpn_core.training.checkpoints import Checkpoints
from sdrpn_core.training.log import LOG_NAME, tells_of_learning
from sdrpn_core.util.run_manifest import ManifestFormat

RPN_FOLDER = "rpn"
CHECKPOINT_FOLDER = "checkpoints"
TRACKER_FOLDER = "trackers"

MANIFEST = ManifestFormat(
    name="run.json",
    kind="training run",
    error=CheckpointError,
    version=1,
    # May change between the sessions of a run.
    uncompared=(
        "versions",
        "backbone.name",
        "backbone.revision",
        "rpn.backbone.name",
        "rpn.backbone.revision",
    ),
)


@dataclass(frozen=True)
class RunFolder:
    """A folder and the run that wants it.

    Attributes:
        folder: holds one run.
        manifest: everything that decides the weights of the run, as plain JSON values.
        keep_checkpoints: how many checkpoints stay.
    """

    folder: Path
    manifest: Mapping[str, Any]
    keep_checkpoints: int

    @property
    def rpn(self) -> Path:
        """Where the trained RPN goes."""
        return self.folder / RPN_FOLDER

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run."""
        return Checkpoints(self.folder / CHECKPOINT_FOLDER, self.keep_checkpoints)

    def check(self, *, resume: bool, overwrite: bool) -> int:
        """Whether the run may have the folder, which is not touched.

        A run of which there is neither a checkpoint nor a log entry with a loss does not occupy the
        folder: there is nothing to lose.

        Args:
            resume: the run must be there already.
            overwrite: whatever run is there will be removed.

        Returns:
            How many steps of this run are done.

        Raises:
            CheckpointError: it holds another run, or ``resume`` does not fit what is there.
            ConfigError: both flags are set.
        """
        if resume and overwrite:
            raise ConfigError("resume continues a run, overwrite removes it: choose one of them")
        if not MANIFEST.exists(self.folder):
            foreign = [n for n in (RPN_FOLDER, CHECKPOINT_FOLDER) if (self.folder / n).exists()]
            if foreign:
                raise CheckpointError(
                    f"{self.folder} holds {' and '.join(foreign)} but no {MANIFEST.name}: choose "
                    "another folder"
                )
        if overwrite or not self._has_begun():
            if resume:
                raise CheckpointError(
                    f"{self.folder} holds no training run to resume: leave out resume"
                )
            return 0
        MANIFEST.require_same(self.folder, self.manifest)
        return self.checkpoints.latest() or 0

    def open(self, *, overwrite: bool) -> None:
        """Make the folder this run's, for one process alone; see :meth:`check`.

        Raises:
            SdrpnError: it cannot be written, or what is to be removed cannot be removed.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if MANIFEST.exists(self.folder) and (overwrite or not self._has_begun()):
                self._clear()
        except OSError as error:
            raise SdrpnError(f"cannot use {self.folder} for a run: {error.strerror}") from error
        if not MANIFEST.exists(self.folder):
            MANIFEST.write(self.folder, self.manifest)

    def _has_begun(self) -> bool:
        return MANIFEST.exists(self.folder) and (
            self.checkpoints.latest() is not None or tells_of_learning(self.folder)
        )

    def _clear(self) -> None:
        """Remove a run's files and nothing else; the manifest last, so that a kill in between
        leaves a folder that can be cleared again.
        """
        for name in (RPN_FOLDER, CHECKPOINT_FOLDER, TRACKER_FOLDER):
            if (self.folder / name).exists():
                shutil.rmtree(self.folder / name)
        for name in (LOG_NAME, MANIFEST.name):
            (self.folder / name).unlink(missing_ok=True)

"""Where the labels of a gate come from: a utility run, or a ladder of resolutions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.backbone.identity import backbone_identity, differences
from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.errors import ShardError
from sdrpn_core.training.batches import StoredLabelBatcher
from sdrpn_core.training.gate_samples import JudgedQuestions
from sdrpn_core.training.sources import TrainingSource
from sdrpn_core.utility.run import UtilityDataset

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.gate.utility_labels import UtilityMargins
    from sdrpn_core.training.settings import TrainingSettings


def judged_questions(
    backbone: Backbone,
    rows: UtilityDataset,
    branch: int,
    settings: TrainingSettings,
    margins: UtilityMargins,
) -> TrainingSource:
    """Train on what the RPN's regions were worth.

    Args:
        backbone: the frozen model.
        rows: the run.
        branch: B.
        settings: of the training run.
        margins: make labels of utilities.

    Raises:
        ShardError: the run is another backbone's, or has no usable row.
    """
    check_backbone(rows.manifest.provenance, backbone, rows.folder)
    if not len(rows):
        raise ShardError(f"{rows.folder} holds no judged record: every record was skipped")
    return TrainingSource(
        samples=JudgedQuestions(rows, margins, Preprocessor(backbone), settings.max_pixels),
        batcher=StoredLabelBatcher(backbone, branch),
        labels={"kind": "utility", "margins": [margins.indifference, margins.margin]},
        n_layers=branch,
        facts={"kind": "utility", "digest": rows.manifest.digest, "rows": len(rows)},
        dataset=rows.manifest.dataset,
    )


def check_backbone(provenance: Mapping[str, Any], backbone: Backbone, folder: Path) -> None:
    """Check that a run is of this backbone.

    Args:
        provenance: of the run.
        backbone: the frozen model.
        folder: of the run, for the message.

    Raises:
        ShardError: it is another one's; says what differs.
    """
    own = backbone_identity(backbone, branch=0)
    if different := differences(provenance.get("backbone", {}), own):
        raise ShardError(
            f"{folder} belongs to another backbone than {backbone.name}: {'; '.join(different)}"
        )

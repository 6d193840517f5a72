"""The gate's objective: which questions need a region, on top of an RPN that stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from sdrpn_core.errors import ConfigError, ShardError
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.gate.gate import n_gate_layers
from sdrpn_core.gate.losses import gate_loss
from sdrpn_core.gate.utility_labels import UtilityMargins
from sdrpn_core.training.continued import ContinuedObjective
from sdrpn_core.training.gate_sources import answered_at_budgets, judged_questions
from sdrpn_core.training.judged_start import judges_another_map, policy_differences
from sdrpn_core.training.objective import BatchLoss
from sdrpn_core.utility.ladder_run import LADDERS, LadderDataset
from sdrpn_core.utility.run import UtilityDataset

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.gate.gate import Gate
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.training.batches import TrainingBatch
    from sdrpn_core.training.settings import TrainingSettings
    from sdrpn_core.training.sources import TrainingSource


class GateObjective(ContinuedObjective):
    """Trains a new gate for a trained RPN: mean binary cross-entropy over the labeled questions.

    Trunk and head stay as they are, bit for bit. The defaults of the settings are those of the
    published recipe (arXiv:2604.06912). The label of a question is a grid of one cell, so that
    questions are batched and cached as labeled images are.

    Args:
        rpn: local folder or hub id of the RPN. A gate that it has already is replaced.
        gate: which gate; default: the published one.
        margins: how the utility of a crop becomes a label; labels from a ladder of resolutions
            need none.

    Raises:
        CheckpointError: no such RPN.
        ConfigError: the gate has no such option.
        UnknownNameError: no gate of that name.
    """

    name = "gate"
    counts = ("labeled_questions", "needing_region")
    unit = "label"
    remedy = "the margins and the data"
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-4, "global_batch_size": 256}

    def __init__(
        self,
        rpn: str | Path,
        gate: GateConfig | None = None,
        margins: UtilityMargins | None = None,
    ) -> None:
        super().__init__(rpn)
        self.gate = gate or GateConfig()
        self.margins = margins or UtilityMargins()
        self._n_gate_layers = n_gate_layers(self.gate)

    @property
    def n_layers_to_load(self) -> int:
        """Those of the RPN, and those that the gate starts as copies of."""
        return max(super().n_layers_to_load, self.config.branch + self._n_gate_layers)

    def source(self, backbone: Backbone, data: Any, settings: TrainingSettings) -> TrainingSource:
        """The questions of a utility run, or of a ladder of resolutions.

        Raises:
            ConfigError: data of another kind, or budgets for a family without any.
            ShardError: data of another backbone, about another RPN's regions or about those of
                another crop policy, an incomplete run, or no question that could be labeled.
        """
        branch = self.config.branch
        if isinstance(data, (str, Path)):
            is_ladder = LADDERS.manifest.exists(Path(data))
            data = LadderDataset(data) if is_ladder else UtilityDataset(data)
        if isinstance(data, LadderDataset):
            return answered_at_budgets(backbone, data, branch, settings)
        if not isinstance(data, UtilityDataset):
            raise ConfigError(
                "a gate is trained on the folder of a utility run or a ladder run: see `sdrpn "
                "utility` and `sdrpn ladder`"
            )
        self._check_start(backbone, data)
        return judged_questions(backbone, data, branch, settings, self.margins)

    def start(self, backbone: Backbone, source: TrainingSource) -> RPN:
        """The RPN with a new gate, whose layers are copies of the decoder's from B on."""
        rpn = super().start(backbone, source)
        rpn.add_gate(backbone, replace(self.gate, labels=source.labels["kind"]))
        return rpn

    def trained(self, rpn: RPN) -> Gate:
        """The gate alone."""
        if rpn.gate is None:
            raise ConfigError("this RPN has no gate to train")
        return rpn.gate

    def predict(self, rpn: RPN, batch: TrainingBatch) -> torch.Tensor:
        """``(batch,)``: one logit per question."""
        return rpn.gate_logits(batch.features, batch.places)

    def loss(self, rpn: RPN, predicted: torch.Tensor, batch: TrainingBatch) -> BatchLoss:
        """Binary cross-entropy over the questions whose label is not ignored."""
        labels = batch.labels[:, 0]
        loss, n_labeled = gate_loss(predicted, labels.float())
        return BatchLoss(loss, torch.stack([n_labeled, (labels > 0).sum()]))

    def facts(self, rpn: RPN) -> Mapping[str, Any]:
        """The start, and how labels are made."""
        return {**super().facts(rpn), "margins": asdict(self.margins)}

    def _check_start(self, backbone: Backbone, rows: UtilityDataset) -> None:
        """Check that the judged regions are those that the RPN crops behind an open gate."""
        provenance = rows.manifest.provenance
        if provenance.get("rpn") is None:
            raise ShardError(f"{rows.folder}: no RPN's regions were judged: run it with --rpn")
        if judges_another_map(rows, self._folder, backbone):
            raise ShardError(
                f"{rows.folder} judges the regions of another RPN than {self._source}: judge this "
                "one's"
            )
        if different := policy_differences(rows, self.config.crop_policy()):
            raise ShardError(
                f"{rows.folder} judges what another crop policy makes of {self._source}'s map: "
                f"{'; '.join(different)}: judge again without --policy, --threshold and "
                "--policy-option, or put that policy into the RPN's config.json"
            )

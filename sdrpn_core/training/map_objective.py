"""What objectives have in common that train the RPN's map, cell by cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdrpn_core.rpn.losses import LOSS_FUNCTIONS
from sdrpn_core.training.objective import BatchLoss, Objective

if TYPE_CHECKING:
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.training.batches import TrainingBatch


class MapObjective(Objective):
    """The RPN's own loss, between its map and the labels of the cells."""

    counts = ("labeled_cells", "foreground_cells")
    unit = "labeled cell"

    def predict(self, rpn: RPN, batch: TrainingBatch) -> torch.Tensor:
        """The scores of all cells, on the grids of the labels."""
        return rpn(batch.features, batch.places).resized(batch.grids).scores

    def loss(self, rpn: RPN, predicted: torch.Tensor, batch: TrainingBatch) -> BatchLoss:
        """The RPN's own loss, over the labeled cells."""
        loss, cells = LOSS_FUNCTIONS[rpn.config.loss](predicted, batch.labels)
        return BatchLoss(loss, torch.stack([cells, (batch.labels > 0).sum()]))

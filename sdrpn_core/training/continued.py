"""Objectives that go on from a trained RPN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.gate.gate import n_gate_layers
from sdrpn_core.rpn.checkpoint import read_rpn_config
from sdrpn_core.rpn.map_checksum import map_checksum
from sdrpn_core.rpn.model import RPN
from sdrpn_core.training.objective import Objective

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.rpn.config import RPNConfig
    from sdrpn_core.training.sources import TrainingSource


class ContinuedObjective(Objective):
    """An objective whose RPN has been trained before.

    Args:
        rpn: its local folder or hub id.

    Attributes:
        config: the RPN's configuration.

    Raises:
        CheckpointError: no such RPN, or its configuration is missing, broken or too new.
    """

    def __init__(self, rpn: str | Path) -> None:
        self.config: RPNConfig
        self.config, self._folder = read_rpn_config(rpn)
        self._source = rpn

    @property
    def n_layers_to_load(self) -> int:
        """The ``n_layers`` of ``load_backbone`` that this takes."""
        gate = self.config.gate
        n_copied = max(self.config.n_layers, 0 if gate is None else n_gate_layers(gate))
        return self.config.branch + n_copied

    def start(self, backbone: Backbone, source: TrainingSource) -> RPN:
        """The RPN as it was saved, in float32 whatever the backbone's dtype.

        Raises:
            CheckpointError: broken files, or an RPN of another backbone.
        """
        return RPN.from_pretrained(self._folder, backbone=backbone, dtype=torch.float32)

    def facts(self, rpn: RPN) -> Mapping[str, Any]:
        """What the run starts from: a checksum of the weights, those of a gate left out."""
        return {"start": map_checksum(rpn)}

"""The first objective: the RPN's map learns to predict pseudo-labels, cell by cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.data.read import read_records
from sdrpn_core.data.record import RecordSource
from sdrpn_core.errors import ConfigError
from sdrpn_core.labeling.run import LabelDataset
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.rpn.model import RPN
from sdrpn_core.training.map_objective import MapObjective
from sdrpn_core.training.sources import TrainingSource, answered_records, stored_labels

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.labels.recipe import LabelRecipe
    from sdrpn_core.training.settings import TrainingSettings


class LabelObjective(MapObjective):
    """Trains a new RPN on the labels of a label run, or on records with responses.

    Args:
        config: of the RPN.
        recipe: how attention becomes labels; default: that of the label run, or for records the
            first of the preset. For a label run only thresholds may differ.
        recipe_options: fields that the recipe is to have, whichever it is.

    Raises:
        ConfigError: the configuration has a gate.
    """

    name = "labels"
    remedy = "the label recipe and the data"

    def __init__(
        self,
        config: RPNConfig,
        recipe: LabelRecipe | None = None,
        recipe_options: Mapping[str, Any] | None = None,
    ) -> None:
        if config.gate is not None:
            raise ConfigError(
                "training makes regions, not gates: take the gate out of the RPN's configuration; "
                "one that was never trained would close at random"
            )
        self.config = config
        self.recipe = recipe
        self.recipe_options = dict(recipe_options or {})

    def source(self, backbone: Backbone, data: Any, settings: TrainingSettings) -> TrainingSource:
        """Stored labels, or records whose labels are made while training.

        Raises:
            ConfigError: the recipe does not fit the backbone or the labels.
            ShardError: labels of another backbone, an incomplete label run, a corrupt shard.
        """
        branch = self.config.branch
        if isinstance(data, (str, Path)):
            data = LabelDataset(data)
        if isinstance(data, LabelDataset):
            return stored_labels(backbone, data, branch, settings, self.recipe, self.recipe_options)
        records = data if isinstance(data, RecordSource) else read_records(data)
        return answered_records(
            backbone, records, branch, settings, self.recipe, self.recipe_options
        )

    def start(self, backbone: Backbone, source: TrainingSource) -> RPN:
        """A new RPN: copies of the backbone's layers under a new head."""
        config = replace(self.config, recipe=source.labels["recipe"])
        return RPN.from_backbone(backbone, config).float()

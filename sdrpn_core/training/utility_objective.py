"""The objective of refinement: a trained map learns what candidate regions turned out to bring."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.distributed.processes import processes
from sdrpn_core.errors import ConfigError
from sdrpn_core.labels.judged import BestRegion, RegionTargets
from sdrpn_core.training.batches import StoredLabelBatcher
from sdrpn_core.training.continued import ContinuedObjective
from sdrpn_core.training.judged_samples import JudgedRegions
from sdrpn_core.training.judged_start import first_look, judges_another_map
from sdrpn_core.training.map_objective import MapObjective
from sdrpn_core.training.sources import TrainingSource, check_run_backbone
from sdrpn_core.utility.run import UtilityDataset

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.training.settings import TrainingSettings

logger = logging.getLogger(__name__)


class UtilityObjective(MapObjective, ContinuedObjective):
    """Goes on with a trained RPN: its own loss, on targets made of judged regions.

    A gate of the RPN is taken off: it has learned what the old map's regions are worth.

    Args:
        rpn: local folder or hub id of the RPN.
        targets: makes targets of judged regions; default:
            :class:`~sdrpn_core.labels.judged.BestRegion`.

    Raises:
        CheckpointError: no such RPN.
        ConfigError: targets that the RPN's loss cannot learn.
    """

    name = "utility"
    remedy = "the margin and the data"

    def __init__(self, rpn: str | Path, targets: RegionTargets | None = None) -> None:
        super().__init__(rpn)
        self.targets = targets or BestRegion()
        if self.config.loss not in self.targets.losses:
            raise ConfigError(
                f"an RPN that was trained by {self.config.loss} cannot be refined by "
                f"{self.targets.name!r}, which needs {' or '.join(self.targets.losses)}: "
                f"choose {BestRegion.name!r}"
            )

    def source(self, backbone: Backbone, data: Any, settings: TrainingSettings) -> TrainingSource:
        """The images of a utility run whose regions help; warns if they are another RPN's.

        Raises:
            ConfigError: data of another kind.
            ShardError: a run of another backbone, an incomplete one, or no region in it helps.
        """
        if isinstance(data, (str, Path)):
            data = UtilityDataset(data)
        if not isinstance(data, UtilityDataset):
            raise ConfigError(
                "a map is refined on the folder of a utility run: see `sdrpn utility`"
            )
        check_run_backbone(data, backbone)
        if processes(backbone.device).is_main_process:
            self._warn_of_another_map(backbone, data)
        branch = self.config.branch
        return TrainingSource(
            samples=JudgedRegions(
                data, self.targets, first_look(data, backbone), settings.max_pixels
            ),
            batcher=StoredLabelBatcher(backbone, branch),
            labels={"kind": "utility", "targets": self.targets.to_dict()},
            n_layers=branch,
            facts={"kind": "utility", "digest": data.manifest.digest, "rows": len(data)},
            datasets=(data.manifest.dataset,),
        )

    def start(self, backbone: Backbone, source: TrainingSource) -> RPN:
        """The RPN as it was saved, in float32 and without a gate."""
        rpn = super().start(backbone, source)
        rpn.remove_gate()
        return rpn

    def facts(self, rpn: RPN) -> Mapping[str, Any]:
        """The start, and how targets are made."""
        return {**super().facts(rpn), "targets": self.targets.to_dict()}

    def _warn_of_another_map(self, backbone: Backbone, rows: UtilityDataset) -> None:
        # No error: the targets depend on nothing but the judged regions, and suit any map.
        if judges_another_map(rows, self._folder, backbone):
            logger.warning(
                "%s judges the regions of another RPN than %s: what this one's map shows was not "
                "judged; judge it, unless this is meant",
                *(rows.folder, self._source),
            )

"""Images whose candidate regions were judged, to refine a map on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from sdrpn_core.data.images import open_image
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.errors import InputError, ShardError
from sdrpn_core.training.samples import Item, SkippedSample, TrainingSample

if TYPE_CHECKING:
    from sdrpn_core.backbone.preprocessing import Preprocessor
    from sdrpn_core.labels.judged import RegionTargets
    from sdrpn_core.utility.row import UtilityRow
    from sdrpn_core.utility.run import UtilityDataset

#: Whose regions are learned from: those of an RPN and of its map. Boxes that came with a record are
#: judged for comparison; to learn from them would be to train on annotations.
LEARNED_SOURCES = ("rpn", "sampled")


class JudgedRegions(Dataset[Item]):
    """Images with a region that helps, and the targets of their cells.

    Records without such a region say nothing about where to look, and are left out.

    Args:
        rows: of a utility run, which is read once for this.
        targets: makes targets of judged regions.
        preprocess: makes the encoder's input of an image.
        max_pixels: images with more pixels are skipped.

    Raises:
        ShardError: no record has a region that helps.
    """

    def __init__(
        self,
        rows: UtilityDataset,
        targets: RegionTargets,
        preprocess: Preprocessor,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.rows = rows
        self.targets = targets
        self.preprocess = preprocess
        self.max_pixels = max_pixels
        decided = [n for n, row in enumerate(rows) if targets.decides(_judged(row)[1])]
        if not decided:
            raise ShardError(
                f"none of the regions judged in {rows.folder} is worth more than {targets.margin} "
                "nats: there is nothing to learn from; judge more candidates, or lower the margin"
            )
        self._decided = np.array(decided, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._decided)

    def __getitem__(self, index: int) -> Item:
        row = self.rows[int(self._decided[index])]
        try:
            if row.image is None or row.geometry is None:
                raise InputError("the image was not stored")
            image = open_image(row.image, max_pixels=self.max_pixels)
            if image.size != row.geometry.source_size:
                found, judged = (f"{w}x{h}" for w, h in (image.size, row.geometry.source_size))
                raise ShardError(
                    f"record {row.id!r} was judged on an image of {judged} pixels, now it has "
                    f"{found}: the image changed, judge again"
                )
            prepared = self.preprocess(image)
        except InputError as error:
            return SkippedSample(row.id, str(error))
        return TrainingSample(row.id, row.question, prepared, self._targets(row, row.geometry.grid))

    def _targets(self, row: UtilityRow, grid: tuple[int, int]) -> npt.NDArray[Any]:
        regions, utilities = _judged(row)
        return self.targets(regions, utilities, grid)


def _judged(row: UtilityRow) -> tuple[list[Any], list[float]]:
    """The regions of a record that are learned from, and what they are worth."""
    pairs = [
        (candidate.grid_boxes, utility)
        for candidate, utility in zip(row.candidates, row.utilities, strict=True)
        if candidate.source in LEARNED_SOURCES and candidate.grid_boxes
    ]
    return [boxes for boxes, _ in pairs], [utility for _, utility in pairs]

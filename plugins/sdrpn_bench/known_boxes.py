"""The controls: a crop of the true region, and one of the same size at a random position."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sdrpn_bench.budgeted import BudgetedMethod
from sdrpn_bench.method import MethodContext
from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.crops.policy import Crop, CropPlan, Outcome
from sdrpn_core.data.boxes import KNOWN_BOX_MARGIN, with_margin
from sdrpn_core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.data.record import Record
    from sdrpn_core.grid.geometry import Box, Geometry

#: Sides of a random crop relative to the image's, if there is no true box to take them from.
TYPICAL_SIDE = 0.25
#: As many crops as the published policy allows; more boxes are merged into one enclosing crop.
MAX_CROPS = 2


class KnownBoxes(Proposer):
    """Crops given boxes, whatever the model sees.

    Args:
        choices: one per question; drawn anew for every image of it.
        max_crop_tokens: crop budget, see :class:`~sdrpn_core.crops.budget.BudgetRule`.
    """

    def __init__(self, choices: Sequence[BoxChoice], max_crop_tokens: int | None = None) -> None:
        self.choices = choices
        self.max_crop_tokens = max_crop_tokens

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """Plan the crops of every image; a record without a region needs none."""
        return [
            [
                self._proposal(choice.boxes(geometry.source_size), geometry)
                for geometry in prompt.geometries
            ]
            for choice, prompt in zip(self.choices, state.prompts, strict=True)
        ]

    def _proposal(self, boxes: Sequence[Box], geometry: Geometry) -> Proposal:
        if not boxes:
            return Proposal(CropPlan(Outcome.NOT_NEEDED, reason="no region holds the answer"))
        crops = tuple(
            Crop(box, geometry.covering_cells(box), max_tokens=self.max_crop_tokens)
            for box in boxes
        )
        return Proposal(CropPlan(Outcome.OK, crops))


@dataclass(frozen=True)
class BoxChoice:
    """The crops of one record.

    Attributes:
        true_boxes: known regions, in source pixels.
        margin: on every side of a box, relative to its longer side.
        rng: draws the crop's position; ``None`` keeps it around the true box.
    """

    true_boxes: tuple[Box, ...]
    margin: float
    rng: random.Random | None = None

    def boxes(self, size: tuple[int, int]) -> list[Box]:
        """Choose the boxes to crop from an image of ``(width, height)`` pixels."""
        boxes = [with_margin(box, self.margin, size) for box in self.true_boxes]
        if self.rng is None:
            return boxes if len(boxes) <= MAX_CROPS else [_enclosing(boxes)]
        if boxes:
            box = boxes[0] if len(boxes) == 1 else _enclosing(boxes)
            width, height = box[2] - box[0], box[3] - box[1]
        else:
            width, height = (max(1, round(side * TYPICAL_SIDE)) for side in size)
        x0 = self.rng.randint(0, size[0] - width)
        y0 = self.rng.randint(0, size[1] - height)
        return [(x0, y0, x0 + width, y0 + height)]


@dataclass(frozen=True)
class Oracle(BudgetedMethod):
    """Crops of the true boxes, each with a margin.

    Attributes:
        margin: on every side of a box, relative to its longer side.
    """

    needs_boxes: ClassVar[bool] = True
    is_control: ClassVar[bool] = True

    margin: float = KNOWN_BOX_MARGIN

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_margin(self.margin)

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer:
        """Propose the true boxes of the batch.

        Raises:
            InputError: a record without boxes.
        """
        for record in records:
            if record.boxes is None:
                raise InputError(f"record {record.id!r} has no boxes, which method 'oracle' needs")
        choices = [BoxChoice(record.boxes or (), self.margin) for record in records]
        return KnownBoxes(choices, self.max_crop_tokens)


@dataclass(frozen=True)
class RandomBox(BudgetedMethod):
    """One crop of the oracle's size (else a typical size), positioned by seed and record id.

    Attributes:
        margin: on every side of a box, relative to its longer side.
    """

    is_control: ClassVar[bool] = True

    margin: float = KNOWN_BOX_MARGIN

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_margin(self.margin)

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer:
        """Propose random boxes, the same in every run and for every batch size."""
        return KnownBoxes(
            [
                BoxChoice(record.boxes or (), self.margin, _generator(context.seed, record.id))
                for record in records
            ],
            self.max_crop_tokens,
        )


def _enclosing(boxes: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _generator(seed: int, record_id: str) -> random.Random:
    # hash() differs between processes; a digest does not.
    return random.Random(hashlib.sha256(f"{seed}/{record_id}".encode()).digest())


def _check_margin(margin: float) -> None:
    if not margin >= 0:
        raise ConfigError(f"the margin must be 0 or more, not {margin}")

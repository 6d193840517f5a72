"""Proposers, which choose crops between the first and the second pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from sdrpn_core.crops.policy import CropPlan, CropPolicy, Outcome
from sdrpn_core.data.images import open_image
from sdrpn_core.errors import InputError
from sdrpn_core.grid.roi_map import RoIMap
from sdrpn_core.util.formatting import short_repr

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.answering.prefix import PrefixReader
    from sdrpn_core.grid.geometry import Box, Geometry


@dataclass(frozen=True)
class Proposal:
    """What to crop from one image, and why.

    Attributes:
        plan: the outcome, and the crops.
        roi: the map that the plan is based on; ``None`` if there is none.
        geometry: where the map's cells lie in the image. A proposer may leave it out: an answer
            has it.
        gate: the gate's probability that the question needs a region; ``None`` if none was asked.
    """

    plan: CropPlan
    roi: RoIMap | None = None
    geometry: Geometry | None = None
    gate: float | None = None

    def __repr__(self) -> str:
        why = f": {self.plan.reason}" if self.plan.reason else ""
        gate = "" if self.gate is None else f", gate={self.gate:.3g}"
        return f"Proposal({self.plan.outcome}{why}, boxes={short_repr(self.boxes)}{gate})"

    @property
    def boxes(self) -> list[Box]:
        """Crop boxes in source pixels, half-open."""
        return [crop.box for crop in self.plan.crops]

    def overlay(
        self, image: str | Path | bytes | Image.Image, captions: Sequence[str] = ()
    ) -> Image.Image:
        """Draw the heatmap and the boxes on the image, and the crops beside it.

        Args:
            image: the image that the proposal is about: path, bytes or image.
            captions: lines below.

        Raises:
            ImageError: the image cannot be read.
            InputError: it has another size than the one that the proposal is about.
        """
        from sdrpn_core.grid.overlay import draw_overlay  # needs matplotlib

        opened = open_image(image)
        geometry = self.geometry
        if geometry is not None and opened.size != geometry.source_size:
            width, height = geometry.source_size
            raise InputError(
                f"the overlay is of an image of {width} x {height} pixels, not of one of "
                f"{opened.width} x {opened.height}"
            )
        roi = None if geometry is None else self.roi
        return draw_overlay(opened, roi, geometry, self.boxes, captions)


class Proposer(ABC):
    """Chooses crops for the images of a batch of questions whose prefixes have run.

    A proposer may also decide that a question needs no region: it returns a plan without crops.
    """

    #: Reads the branch features of every prefix while it runs; ``state.readings(reader)`` returns
    #: what it kept. ``None`` if the proposer needs no branch features.
    reader: PrefixReader | None = None

    @abstractmethod
    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """Return for every question one proposal per image.

        An answer refuses plans that cannot be cropped: see
        :func:`~sdrpn_core.crops.policy.checked_plan`.
        """


@dataclass(frozen=True)
class FoundMap:
    """What a :class:`MapProposer` finds out about one image, before a policy plans its crops.

    Attributes:
        roi: its map; ``None`` where nothing could be read, or nothing had to be.
        gate: see :class:`Proposal`.
    """

    roi: RoIMap | None
    gate: float | None = None


class MapProposer(Proposer):
    """Scores every visual token, and has a policy crop what the map shows.

    The two steps are apart so that several policies can share the maps, which cost most.

    Attributes:
        policy: turns the maps into crops.
    """

    policy: CropPolicy
    #: Why an image has no map, as a short phrase.
    no_map: ClassVar[str] = "no map could be read"

    @abstractmethod
    def maps(self, state: Prefill) -> Sequence[RoIMap | None]:
        """The maps of all images, prompt by prompt; ``None`` where nothing could be read."""

    def find(self, state: Prefill) -> Sequence[FoundMap]:
        """The maps of all images, prompt by prompt, with what else proposals are to tell."""
        return [FoundMap(roi) for roi in self.maps(state)]

    def proposal(self, roi: RoIMap | None, geometry: Geometry) -> Proposal:
        """What to crop from an image with this map."""
        if roi is None:
            return Proposal(CropPlan(Outcome.NO_ROI, reason=self.no_map))
        return Proposal(self.policy.plan(roi, geometry), roi)

    def plan(self, state: Prefill, found: Sequence[FoundMap]) -> list[list[Proposal]]:
        """Plan the crops of each image.

        Args:
            state: the questions.
            found: what :meth:`find` says of them, of this proposer or of one with another policy.
        """
        each = iter(found)
        return [
            [self._planned(next(each), geometry) for geometry in prompt.geometries]
            for prompt in state.prompts
        ]

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """Score all images, and plan the crops of each."""
        return self.plan(state, self.find(state))

    def _planned(self, found: FoundMap, geometry: Geometry) -> Proposal:
        proposal = self.proposal(found.roi, geometry)
        return proposal if found.gate is None else replace(proposal, gate=found.gate)

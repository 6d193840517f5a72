"""Proposers, which choose crops between the first and the second pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdrpn_core.crops.policy import CropPlan
from sdrpn_core.grid.roi_map import RoIMap

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.answering.prefix import PrefixReader


@dataclass(frozen=True)
class Proposal:
    """What to crop from one image, and the map that it is based on (``None`` if there is none)."""

    plan: CropPlan
    roi: RoIMap | None = None


class Proposer(ABC):
    """Chooses crops for the images of a batch of questions whose prefixes have run.

    A proposer may also decide that a question needs no region: it returns a plan without crops.
    """

    #: Reads the branch features of every prefix while it runs; ``state.readings(reader)`` returns
    #: what it kept. ``None`` if the proposer needs no branch features.
    reader: PrefixReader | None = None

    @abstractmethod
    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """Return for every question one proposal per image."""

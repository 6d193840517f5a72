"""Maps of the few heads that come into question: what joint measures need and sums cannot give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sdrpn_core.head_finding.measures import Scores, box_auc, pointing
from sdrpn_core.head_finding.samples import Sample, Target

#: (layer, head)
Head = tuple[int, int]

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SinkChoice:
    """Heads whose mean attention marks cells to drop, and the threshold from which it does."""

    heads: tuple[Head, ...] = ()
    threshold: float = 1e-3


NO_SINKS = SinkChoice()


@dataclass(frozen=True, eq=False)
class JointScores:
    """How a set of heads does, sample by sample.

    Attributes:
        pointing: ``(n,)`` whether the highest cell of the mean map lies in a box.
        auc: ``(n,)`` probability that a cell in a box is higher than one outside.
    """

    pointing: Scores
    auc: Scores

    @property
    def quality(self) -> Scores:
        """What sets are compared by, ``(n,)``: pointing and AUC in equal parts."""
        return (self.pointing + self.auc) / 2


@dataclass(frozen=True, eq=False)
class CandidateMaps:
    """Mean attention rows of some heads, for all samples.

    Attributes:
        heads: the candidates.
        halves: per sample its half.
        targets: per sample where its boxes lie.
        maps: per sample ``(row choices, candidates, h * w)`` float32.
    """

    heads: tuple[Head, ...]
    halves: list[int] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)

    def add(self, sample: Sample, maps: Map) -> None:
        """Keep a sample's maps, ``(row choices, candidates, h * w)``."""
        self.halves.append(sample.half)
        self.targets.append(sample.target)
        self.maps.append(maps)

    def scores(
        self, heads: Sequence[Head], row_choice: int, half: int, sinks: SinkChoice = NO_SINKS
    ) -> JointScores:
        """Measure the mean map of several heads, sinks dropped, on one half of the samples."""
        chosen = [i for i, own in enumerate(self.halves) if own == half]
        points, areas = np.empty(len(chosen)), np.empty(len(chosen))
        for place, i in enumerate(chosen):
            joint = self.mean(i, heads, row_choice)
            if sinks.heads:
                is_sink = self.mean(i, sinks.heads, row_choice) >= sinks.threshold
                joint = np.where(is_sink, np.float32(0), joint)
            points[place] = pointing(joint, self.targets[i].inside)
            areas[place] = box_auc(joint, self.targets[i].inside)
        return JointScores(points, areas)

    def mean(self, sample: int, heads: Iterable[Head], row_choice: int) -> Map:
        """Mean map ``(h * w,)`` of several candidates for one sample."""
        rows = [self.heads.index(head) for head in heads]
        mean: Map = self.maps[sample][row_choice, rows].mean(axis=0)
        return mean

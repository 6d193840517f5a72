"""Maps of the few candidate heads: joint measures need them, sums over samples do not suffice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdrpn_core.head_finding.measures import Cells, Scores, box_auc, pointing
from sdrpn_core.head_finding.samples import CalibrationSample, Target

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
class SampleGroup:
    """Samples of one half whose grids have the same number of cells.

    Attributes:
        targets: where their boxes lie.
        inside: ``(samples, cells)`` true in the boxes.
        maps: ``(samples, row choices, candidates, cells)`` float32.
    """

    targets: tuple[Target, ...]
    inside: Cells
    maps: Map


class CandidateMaps:
    """Mean attention rows of some heads, for all samples.

    Args:
        heads: the candidates.
        samples: those whose maps are kept.
        maps: per sample ``(row choices, candidates, h * w)`` float32.
    """

    def __init__(
        self, heads: Sequence[Head], samples: Sequence[CalibrationSample], maps: Sequence[Map]
    ) -> None:
        self.samples = tuple(samples)
        self.heads = tuple(heads)
        # Grids of one size are measured together: one by one, most of the time is overhead.
        alike: dict[tuple[int, int], list[int]] = {}
        for index, sample in enumerate(samples):
            alike.setdefault((sample.half, sample.target.inside.size), []).append(index)
        self._groups: dict[int, list[SampleGroup]] = {}
        for (half, _), indices in alike.items():
            targets = tuple(samples[i].target for i in indices)
            inside = np.stack([target.inside for target in targets])
            group = SampleGroup(targets, inside, np.stack([maps[i] for i in indices]))
            self._groups.setdefault(half, []).append(group)

    def size(self, half: int) -> int:
        """Number of samples of one half."""
        return sum(len(group.targets) for group in self._groups.get(half, ()))

    def scores(
        self, heads: Sequence[Head], row_choice: int, half: int, sinks: SinkChoice = NO_SINKS
    ) -> JointScores:
        """Measure the mean map of several heads, sinks dropped, on one half of the samples."""
        points, areas = [], []
        for group in self._groups[half]:
            joint = self._mean(group, heads, row_choice)
            if sinks.heads:
                is_sink = self._mean(group, sinks.heads, row_choice) >= sinks.threshold
                joint = np.where(is_sink, np.float32(0), joint)
            points.append(pointing(joint, group.inside))
            areas.append(box_auc(joint, group.inside))
        return JointScores(np.concatenate(points), np.concatenate(areas))

    def joint_maps(
        self, heads: Sequence[Head], row_choice: int, half: int
    ) -> Iterator[tuple[Target, Map]]:
        """Each sample's boxes, and its mean map ``(h, w)`` over several heads."""
        for group in self._groups[half]:
            for target, joint in zip(
                group.targets, self._mean(group, heads, row_choice), strict=True
            ):
                yield target, joint.reshape(target.grid)

    def _mean(self, group: SampleGroup, heads: Sequence[Head], row_choice: int) -> Map:
        """``(samples, cells)``."""
        places = [self.heads.index(head) for head in heads]
        mean: Map = group.maps[:, row_choice, places].mean(axis=1)
        return mean

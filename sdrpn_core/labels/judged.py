"""From judged candidate regions to what a map is trained on.

A candidate is any number of boxes that are cropped together; its utility says how much more likely
a reference response becomes with them, in nats. No candidate at all, the plain answer, has utility
0. Where no candidate beats it by a margin, nothing is known about where to look: all is ignored.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sdrpn_core.errors import ConfigError, InputError, UnknownNameError
from sdrpn_core.grid.geometry import Box
from sdrpn_core.labels.pseudo import BACKGROUND, FOREGROUND, IGNORE
from sdrpn_core.util.dataclass_reader import read_dataclass

#: Nats by which a region must beat the plain answer to count as a help: the reference response is
#: then twice as likely. Refinement, the labels of gates and reports all take this one.
DEFAULT_MARGIN = 0.7


@dataclass(frozen=True)
class RegionTargets(ABC):
    """Makes the targets of one image's cells.

    Attributes:
        margin: nats by which the best candidate must beat the plain answer.
        name: of the form.
        losses: names of the RPN's losses that such targets are for.
        dtype: of the targets.

    Raises:
        ConfigError: a value is out of range.
    """

    name: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]
    dtype: ClassVar[type[np.generic]]

    margin: float = DEFAULT_MARGIN

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise ConfigError(f"margin must be a number of nats, not negative: {self.margin}")

    def decides(self, utilities: Sequence[float]) -> bool:
        """Whether any candidate beats the plain answer by the margin."""
        return max(utilities, default=-math.inf) > self.margin

    def __call__(
        self, regions: Sequence[Sequence[Box]], utilities: Sequence[float], grid: tuple[int, int]
    ) -> npt.NDArray[Any]:
        """The targets of one image.

        Args:
            regions: per candidate its boxes in cells, half-open.
            utilities: per candidate, in nats.
            grid: ``(h, w)``.

        Returns:
            ``(h, w)`` in [0, 1], or -100 where a cell is ignored.

        Raises:
            InputError: not one utility per candidate.
        """
        if len(regions) != len(utilities):
            raise InputError(f"{len(utilities)} utilities for {len(regions)} candidate regions")
        # One row more: the plain answer, a region without a cell.
        masks = np.zeros((len(regions) + 1, *grid), dtype=np.bool_)
        for mask, region in zip(masks, regions, strict=False):
            for x0, y0, x1, y1 in region:
                mask[y0:y1, x0:x1] = True
        if not self.decides(utilities):
            return np.full(grid, IGNORE, dtype=self.dtype)
        return self._targets(masks, np.array([*utilities, 0.0]))

    @abstractmethod
    def _targets(
        self, masks: npt.NDArray[np.bool_], utilities: npt.NDArray[np.float64]
    ) -> npt.NDArray[Any]:
        """Targets ``(h, w)`` from ``(n, h, w)`` and ``(n,)``; the last is the plain answer."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the name among them."""
        return {"form": self.name, **asdict(self)}


@dataclass(frozen=True)
class BestRegion(RegionTargets):
    """Hard labels: the smallest of the candidates that are as good as the best.

    A smaller region that brings as much shows the same in more detail, and costs less. Cells of the
    others that are as good are undecided, and ignored; what lies in none of them is background.

    Attributes:
        tolerance: nats below the best candidate within which another is as good.
    """

    name: ClassVar[str] = "labels"
    losses: ClassVar[tuple[str, ...]] = ("bce", "focal", "mse")
    dtype: ClassVar[type[np.generic]] = np.int64

    tolerance: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ConfigError(f"tolerance must be a number of nats, not negative: {self.tolerance}")

    def _targets(
        self, masks: npt.NDArray[np.bool_], utilities: npt.NDArray[np.float64]
    ) -> npt.NDArray[Any]:
        good = masks[utilities >= utilities.max() - self.tolerance]
        # A region without a cell is the plain answer, which only tolerance can make as good.
        good = good[good.any(axis=(1, 2))]
        labels = np.full(masks.shape[1:], BACKGROUND, dtype=self.dtype)
        if len(good):
            labels[good.any(axis=0)] = IGNORE
            labels[good[good.sum(axis=(1, 2)).argmin()]] = FOREGROUND
        return labels


@dataclass(frozen=True)
class WeightedRegions(RegionTargets):
    """Soft targets: one step of a policy that is rewarded with utility.

    The map is a policy. Cell i belongs to the region with probability ``p_i``, independently of the
    others, so that a region with the cells ``m`` (0 or 1 each) has the probability
    ``pi(m) = prod_i p_i^m_i * (1 - p_i)^(1 - m_i)``. Of all policies, the one with the highest mean
    utility ``u``, less ``T`` times its KL divergence from the policy that regions were drawn from,
    is ``pi_old(m) * exp(u(m) / T)``, normalized. Its samples are the candidates and the plain
    answer, with the weights ``w = softmax(u / T)``, and the map that is closest to it minimizes
    ``-sum_c w_c log pi(m_c)`` nats. That is the binary cross-entropy against

        ``t_i = sum_c w_c m_ci``,

    the target of cell i; the gradient by its logit is ``p_i - t_i``. This is advantage-weighted
    regression (Peng et al., arXiv:1910.00177). A baseline, such as the mean of the group, cancels
    in the weights. As the temperature falls to 0, only the best candidate counts.

    A map that is a distribution learns ``t`` divided by its sum, by the squared error instead.

    Attributes:
        temperature: T in nats.
    """

    name: ClassVar[str] = "policy"
    # Both are smallest where the map equals the target; the focal loss is not.
    losses: ClassVar[tuple[str, ...]] = ("bce", "mse")
    dtype: ClassVar[type[np.generic]] = np.float32

    temperature: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"temperature must be a positive number, not {self.temperature}")

    def _targets(
        self, masks: npt.NDArray[np.bool_], utilities: npt.NDArray[np.float64]
    ) -> npt.NDArray[Any]:
        weights = np.exp((utilities - utilities.max()) / self.temperature)
        targets = np.tensordot(weights / weights.sum(), masks, axes=1)
        return np.clip(targets, 0, 1).astype(self.dtype)


FORMS: dict[str, type[RegionTargets]] = {form.name: form for form in (BestRegion, WeightedRegions)}


def region_targets(form: str, **options: Any) -> RegionTargets:
    """Make the targets of a form.

    Args:
        form: ``labels`` or ``policy``.
        options: fields of its class that differ from the defaults.

    Raises:
        UnknownNameError: no such form.
        ConfigError: an unknown option, or a value out of range.
    """
    if form not in FORMS:
        raise UnknownNameError("form of refinement", form, list(FORMS))
    return read_dataclass(FORMS[form], options, f"refinement by {form}")

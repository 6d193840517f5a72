"""Crop plans, and the base class of the policies that make them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.grid.geometry import Box, Geometry
from sdrpn_core.grid.roi_map import RoIMap
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.util.dataclass_reader import read_dataclass

P = TypeVar("P", bound="CropPolicy")


class Outcome(str, Enum):
    """Why there are crops or none. Anything but ``OK`` leads to the plain answer."""

    OK = "ok"
    """At least one crop."""
    NO_ROI = "no_roi"
    """No region stands out: no cell is above the threshold, or a region is too large and nothing
    beside it can be cropped. What would be ``TOO_SMALL`` alone does not count beside one."""
    TOO_MANY = "too_many"
    """More regions than the policy may crop; none is cropped."""
    TOO_SMALL = "too_small"
    """Every region is an isolated cell, contains no source pixel (it lies in the padding), or gives
    a crop that the backbone cannot encode."""

    NOT_NEEDED = "not_needed"
    """The question needs no closer look, says the gate, or whoever knows; nothing was proposed."""
    LESS_SURE = "less_sure"
    """Regions were cropped, but with them the model was less sure of its answer than without."""

    def __str__(self) -> str:
        """The value, as ``str`` of an ``enum.StrEnum`` (Python 3.11) is."""
        return self.value


@dataclass(frozen=True, eq=False)
class Crop:
    """One region to crop.

    Attributes:
        box: the region in source pixels, half-open, never empty.
        grid_box: the region in cells, half-open, never empty.
        keep: ``(rows, columns)`` float32 of 0 and 1 over ``grid_box``: the part of the crop whose
            tokens are kept, see :func:`~sdrpn_core.crops.tokens.keep_tokens`; ``None`` keeps all.
        max_ratio: tokens per cell of ``grid_box`` that the crop's token grid is resized to, see
            :func:`~sdrpn_core.crops.tokens.token_grid`; ``None`` keeps the crop's own grid.
        max_tokens: the crop budget, see :class:`~sdrpn_core.crops.budget.BudgetRule`; ``None``: the
            processor decides how many tokens the crop takes.
    """

    box: Box
    grid_box: Box
    keep: npt.NDArray[np.float32] | None = None
    max_ratio: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, eq=False)
class CropPlan:
    """The outcome for one image, and its crops.

    Attributes:
        outcome: ``OK`` if there are crops, else why there are none.
        crops: the regions to crop; empty unless the outcome is ``OK``.
        reason: why there are no crops, as a short phrase for messages; empty if there are.
        keep: ``(h, w)`` bool, the tokens of the whole image that are kept beside the crops;
            ``None`` keeps all. Always ``None`` without crops.
        prunes_at_any_cost: whether the other tokens are dropped even where their image then has to
            run again; if not, only where that saves more than it costs.
    """

    outcome: Outcome
    crops: tuple[Crop, ...] = ()
    reason: str = ""
    keep: npt.NDArray[np.bool_] | None = None
    prunes_at_any_cost: bool = False


def checked_plan(plan: object, geometry: Geometry, by: str) -> CropPlan:
    """A plan that can be cropped; the sides of its boxes are plain integers.

    Pillow fills what lies outside an image with black, so a wrong box would be answered like any
    other.

    Args:
        plan: what a policy or a proposer has made.
        geometry: of the image.
        by: who made it, as messages call it.

    Raises:
        ConfigError: it is no plan, an outcome does not go with its crops, or a box is empty, not of
            integers, or reaches out of the image or of its grid.
    """
    if not isinstance(plan, CropPlan):
        raise ConfigError(f"{by} has planned a {type(plan).__name__}: return a CropPlan")
    if not isinstance(plan.outcome, Outcome):
        raise ConfigError(f"{by}: {plan.outcome!r} is no outcome of a plan: take one of Outcome")
    if plan.outcome is Outcome.OK and not plan.crops:
        raise ConfigError(
            f"{by}: the outcome is ok, and there is no crop: give crops, or an outcome that says "
            f"why there are none, such as {Outcome.NO_ROI}"
        )
    if plan.outcome is not Outcome.OK and plan.crops:
        raise ConfigError(
            f"{by}: the outcome is {plan.outcome}, and there are crops: they go with ok alone"
        )
    rows, columns = geometry.grid
    crops = []
    for crop in plan.crops:
        if not isinstance(crop, Crop):
            raise ConfigError(f"{by} has planned a {type(crop).__name__} among its crops, no Crop")
        box = _checked_box(crop.box, geometry.source_size, f"{by}: box", "pixels of the image")
        cells = _checked_box(crop.grid_box, (columns, rows), f"{by}: grid_box", "cells of the grid")
        crops.append(replace(crop, box=box, grid_box=cells))
    return replace(plan, crops=tuple(crops))


def _checked_box(box: object, size: tuple[int, int], what: str, unit: str) -> Box:
    sides = list(box) if isinstance(box, (tuple, list, np.ndarray)) else []
    width, height = size
    if len(sides) == 4 and all(map(_is_integer, sides)):
        x0, y0, x1, y1 = map(int, sides)
        if 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height:
            return x0, y0, x1, y1
    raise ConfigError(
        f"{what} {box!r} must be four integers (x0, y0, x1, y1) with 0 <= x0 < x1 <= {width} and "
        f"0 <= y0 < y1 <= {height}, {unit}"
    )


def _is_integer(side: object) -> bool:
    return isinstance(side, (int, np.integer)) and not isinstance(side, bool)


@dataclass(frozen=True)
class CropPolicy(ABC):
    """Chooses crops from an RoI map. The options are the fields of a frozen dataclass."""

    @abstractmethod
    def _plan(self, roi: RoIMap, geometry: Geometry) -> CropPlan:
        """Plan the crops; map and geometry have the same grid, and ``keep`` is set afterwards.

        Boxes lie in the image, see :func:`checked_plan`.
        """

    def needs_question_scores(self, grid: tuple[int, int]) -> bool:
        """Whether ``kept_tokens`` reads ``RoIMap.question_scores`` for an image with this grid."""
        return False

    def kept_tokens(self, roi: RoIMap) -> npt.NDArray[np.bool_] | None:
        """``(h, w)`` bool: the tokens of a cropped image that are kept; ``None`` keeps all."""
        return None

    @property
    def prunes_at_any_cost(self) -> bool:
        """See ``CropPlan.prunes_at_any_cost``."""
        return False

    @property
    def crop_budget(self) -> int | None:
        """``Crop.max_tokens`` of every crop; ``None`` leaves them as they were planned."""
        return None

    def plan(self, roi: RoIMap, geometry: Geometry) -> CropPlan:
        """Choose the crops for one image.

        Args:
            roi: the map of the image.
            geometry: the image's geometry, on the same grid as the map.

        Raises:
            InputError: map and geometry have different grids.
            ConfigError: what the policy planned cannot be cropped, see :func:`checked_plan`.
        """
        if roi.grid != geometry.grid:
            raise InputError(f"RoI map has grid {roi.grid}, but its geometry has {geometry.grid}")
        plan = checked_plan(self._plan(roi, geometry), geometry, type(self).__name__)
        if not plan.crops:
            return plan
        crops = plan.crops
        if self.crop_budget is not None:
            crops = tuple(replace(crop, max_tokens=self.crop_budget) for crop in crops)
        return replace(
            plan,
            crops=crops,
            keep=self.kept_tokens(roi),
            prunes_at_any_cost=self.prunes_at_any_cost,
        )

    def options(self) -> dict[str, Any]:
        """The options as plain JSON values, from which ``from_options`` restores the policy."""
        return asdict(self)

    @classmethod
    def from_options(cls: type[P], options: dict[str, Any]) -> P:
        """The policy with these options, the others at their defaults.

        Raises:
            ConfigError: an option is unknown (names similar ones) or out of range.
        """
        return read_dataclass(cls, options, cls.__name__)


def as_policy(policy: str | CropPolicy) -> CropPolicy:
    """A crop policy as it is, or a registered one, with its defaults, by its name.

    Args:
        policy: a policy, or the name of one.

    Raises:
        UnknownNameError: no policy has that name.
        ConfigError: it is the class of a policy; says what to write.
    """
    if isinstance(policy, CropPolicy):
        return policy
    given: object = policy
    if isinstance(given, type):
        raise ConfigError(
            f"the policy must be made, and {given.__name__} is a class: write {given.__name__}()"
        )
    return make_policy(policy)


def make_policy(name: str, options: dict[str, Any] | None = None) -> CropPolicy:
    """Make a registered crop policy.

    Raises:
        UnknownNameError: no policy has that name.
        ConfigError: an option is unknown or out of range.
    """
    return get_plugins().crop_policies.get(name).from_options(options or {})

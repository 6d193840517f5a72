"""Candidate regions drawn from an RoI map, to be judged by what they bring."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sdrpn_core.crops.regions import RegionRule
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.grid.geometry import Box, enclosing_box

Region: TypeAlias = tuple[Box, ...]
"""The boxes of one candidate in cells, half-open, in ascending order: all are cropped together."""

_MAX_ASPECT = 2.0
"""Drawn boxes are at most this many times as wide as high, or as high as wide, before rounding."""
_TRIES = 20
"""Draws per candidate that is wanted: a small grid may not have as many different regions."""


@dataclass(frozen=True)
class RegionSampler:
    """Draws different candidate regions from the map of one image.

    What the map shows comes first, as a policy would crop it: at each threshold the connected
    regions, together if there are several and each of the heaviest by itself. The rest explores:
    boxes of random extent around cells drawn from the map, and pairs of disjoint boxes, for
    questions that need two places. At least half of the candidates, rounded down, are such draws.

    The same map, seed and key give the same regions.

    Attributes:
        n: candidates per image; a small grid may have fewer.
        thresholds: fractions of the map's maximum.
        max_boxes: boxes of one candidate at most; 1 draws no pairs.
        pairs: share of the drawn candidates that are pairs.
        uniform: share of the cells that are drawn from anywhere in the image instead of from the
            map, so that what the map misses can be found.
        min_area: cells of the smallest box that is drawn, as a policy's ``min_area``.
        max_area_fraction: largest share of the grid's cells that a box may have.
        seed: of the draws.

    Raises:
        ConfigError: a value is out of range.
    """

    n: int = 8
    thresholds: tuple[float, ...] = (0.5, 0.25, 0.75)
    max_boxes: int = 2
    pairs: float = 0.25
    uniform: float = 0.25
    min_area: int = 4
    max_area_fraction: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        for name in ("n", "max_boxes", "min_area"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"region sampler: {name} must be 1 or more, not {getattr(self, name)}"
                )
        for name in ("pairs", "uniform"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"region sampler: {name} must lie in [0, 1], not {getattr(self, name)}"
                )
        if not all(0 < threshold < 1 for threshold in self.thresholds):
            raise ConfigError(
                f"region sampler: thresholds must lie between 0 and 1, not {self.thresholds}"
            )
        if not 0 < self.max_area_fraction <= 1:
            raise ConfigError(
                "region sampler: max_area_fraction must lie in (0, 1], not "
                f"{self.max_area_fraction}"
            )

    def __call__(
        self,
        probabilities: npt.NDArray[np.floating],
        content: npt.NDArray[np.bool_],
        key: str,
    ) -> list[Region]:
        """Draw the candidates of one image.

        Args:
            probabilities: ``(h, w)``, not negative: how likely each cell belongs to the region, or
                a distribution (:meth:`~sdrpn_core.grid.roi_map.RoIMap.probabilities`).
            content: ``(h, w)`` bool, the cells that show the image (``Geometry.content``); no box
                reaches out of the rectangle around them.
            key: what tells this image from others, such as the id of its record.

        Returns:
            At most ``n`` regions, no two alike.

        Raises:
            InputError: shapes that differ, a negative or infinite probability, no content.
        """
        weights = np.asarray(probabilities, dtype=np.float64)
        if weights.ndim != 2 or weights.shape != content.shape or not content.any():
            raise InputError(
                f"a map of shape {weights.shape} and content of {content.shape} with "
                f"{int(content.sum())} cells give no candidate regions"
            )
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise InputError("candidate regions are drawn from probabilities: none is negative")
        weights = np.where(content, weights, 0)
        bounds = enclosing_box(content)
        shown = dict.fromkeys(self._shown(weights, bounds))
        found = dict.fromkeys(islice(shown, self.n - self.n // 2))
        draws = self._drawn(weights, content, key)
        for _ in range(_TRIES * self.n):
            if len(found) == self.n:
                break
            found[next(draws)] = None
        return list(found)

    def _shown(self, weights: npt.NDArray[np.float64], bounds: Box) -> Iterator[Region]:
        """What the map shows at each threshold, the heaviest regions first."""
        rule = RegionRule(
            min_area=self.min_area, max_area_fraction=self.max_area_fraction, keep_single=True
        )
        for threshold in self.thresholds:
            # A region that is grown for its small area may reach into the padding.
            regions = rule.regions(weights > threshold * weights.max()).boxes
            boxes = dict.fromkeys(_within(box, bounds) for box in regions)
            heaviest = sorted(boxes, key=lambda box: -_mass(weights, box))[: self.max_boxes]
            if len(heaviest) > 1:
                yield tuple(sorted(heaviest))
            yield from ((box,) for box in heaviest)

    def _drawn(
        self, weights: npt.NDArray[np.float64], content: npt.NDArray[np.bool_], key: str
    ) -> Iterator[Region]:
        """Single boxes and pairs, without end."""
        digest = hashlib.sha256(f"{self.seed}/{key}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        anywhere = content / content.sum()
        total = weights.sum()
        by_map = weights / total if total > 0 else anywhere
        odds = (1 - self.uniform) * by_map + self.uniform * anywhere
        bounds = enclosing_box(content)
        while True:
            region: Region = (self._box(odds, bounds, rng),)
            if self.max_boxes > 1 and rng.random() < self.pairs:
                first = region[0]
                rest = odds.copy()
                rest[_cells(first)] = 0
                other = self._box(rest, bounds, rng) if rest.any() else first
                if not _overlap(first, other):
                    region = tuple(sorted((first, other)))
            yield region

    def _box(self, odds: npt.NDArray[np.float64], bounds: Box, rng: np.random.Generator) -> Box:
        """A box of random area, aspect and place that holds a drawn cell."""
        cell = int(rng.choice(odds.size, p=odds.ravel() / odds.sum()))
        row, column = divmod(cell, odds.shape[1])
        largest = max(self.min_area, self.max_area_fraction * odds.size)
        area = math.exp(rng.uniform(math.log(self.min_area), math.log(largest)))
        aspect = math.exp(rng.uniform(-math.log(_MAX_ASPECT), math.log(_MAX_ASPECT)))
        left, top, right, bottom = bounds
        x0, x1 = _interval(column, math.sqrt(area * aspect), left, right, rng)
        y0, y1 = _interval(row, math.sqrt(area / aspect), top, bottom, rng)
        return x0, y0, x1, y1


def _interval(
    cell: int, length: float, low: int, high: int, rng: np.random.Generator
) -> tuple[int, int]:
    """An interval of about this length within ``[low, high)`` that holds a cell."""
    cells = min(max(1, round(length)), high - low)
    start = int(rng.integers(max(low, cell - cells + 1), min(cell, high - cells), endpoint=True))
    return start, start + cells


def _cells(box: Box) -> tuple[slice, slice]:
    """The index of a box's cells."""
    x0, y0, x1, y1 = box
    return slice(y0, y1), slice(x0, x1)


def _mass(weights: npt.NDArray[np.float64], box: Box) -> float:
    return float(weights[_cells(box)].sum())


def _within(box: Box, bounds: Box) -> Box:
    (x0, y0, x1, y1), (left, top, right, bottom) = box, bounds
    return max(x0, left), max(y0, top), min(x1, right), min(y1, bottom)


def _overlap(one: Box, other: Box) -> bool:
    x0, y0, x1, y1 = _within(one, other)
    return x0 < x1 and y0 < y1

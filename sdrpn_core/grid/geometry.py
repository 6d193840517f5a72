"""Where the cells of a visual-token grid lie in the source image.

Each kind of preprocessing is one class: ``PaddedSquare`` (padded to a square, then scaled),
``Letterboxed`` (scaled to whole pixels, then padded to a square) and ``Resized`` (stretched to a
whole number of cells). A geometry belongs to one image, is plain data, and accompanies the RoI map
of that image.

Units: sizes are (width, height) in source pixels after EXIF rotation, grids are (rows, columns) in
cells, boxes are half-open (x0, y0, x1, y1) in either source pixels or cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import ceil, floor
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.plugins.manager import get_plugins

Box = tuple[int, int, int, int]
"""Half-open (x0, y0, x1, y1)."""

_EDGE_TOLERANCE = 1e-6
"""Overlap in cells that counts as none: the error of cell edges computed in float64."""


@dataclass(frozen=True)
class Geometry(ABC):
    """Maps grid cells of one image to source pixels and back.

    Attributes:
        source_size: (width, height) of the image in pixels, after EXIF rotation.
        grid: (rows, columns) of visual tokens.

    Raises:
        ConfigError: a size or grid is not a pair of positive integers.
    """

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, type[Geometry]]] = {}

    source_size: tuple[int, int]
    grid: tuple[int, int]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            Geometry._kinds[cls.kind] = cls

    def __post_init__(self) -> None:
        object.__setattr__(self, "source_size", _positive_pair(self.source_size, "source_size"))
        object.__setattr__(self, "grid", _positive_pair(self.grid, "grid"))

    @abstractmethod
    def _scale_to_source(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Convert grid boxes to unclamped source coordinates, float32 in and out."""

    @abstractmethod
    def to_grid(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Convert source boxes to continuous grid coordinates, neither rounded nor clamped.

        Args:
            boxes: (N, 4) boxes in source pixels.

        Returns:
            (N, 4) float64 boxes in cells. A box that exceeds the image also exceeds its part of the
            grid.

        Raises:
            InputError: ``boxes`` is not (N, 4).
        """

    def to_source(self, boxes: npt.ArrayLike, min_side: float = 0) -> npt.NDArray[np.int64]:
        """Convert grid boxes to whole source pixels: clamped to the image, then truncated.

        Computed in float32 and in the order of the published code: at exact pixel boundaries the
        rounding decides between two neighboring integers.

        Args:
            boxes: (N, 4) half-open boxes in cells.
            min_side: boxes that are narrower than this, in source pixels, are widened around their
                center and moved back into the image.

        Returns:
            (N, 4) int64 half-open boxes in source pixels. A box that lies in the padding, or covers
            less than one source pixel, comes back with zero width or height.

        Raises:
            InputError: ``boxes`` is not (N, 4).
        """
        width, height = self.source_size
        source = self._scale_to_source(_as_boxes(boxes).astype(np.float32))
        limit = np.array([width, height, width, height], dtype=np.float32)
        if min_side:
            source = _widened(source, limit, np.float32(min_side))
        return np.clip(source, np.float32(0), limit).astype(np.int64)

    def cells_of(self, box: Sequence[float]) -> npt.NDArray[np.bool_]:
        """The cells whose area overlaps a source box.

        Args:
            box: (x0, y0, x1, y1) in source pixels.

        Returns:
            (h, w) bool. Touching along an edge is no overlap; a box of zero area has no cells.
        """
        rows, columns = self.grid
        x0, y0, x1, y1 = self.to_grid([box])[0]
        return np.outer(_overlaps(y0, y1, rows), _overlaps(x0, x1, columns))

    def covering_cells(self, box: Sequence[float]) -> Box:
        """The smallest half-open box of whole cells that covers a source box, within the grid.

        Args:
            box: (x0, y0, x1, y1) in source pixels.
        """
        rows, columns = self.grid
        x0, y0, x1, y1 = self.to_grid([box])[0].tolist()
        return max(0, floor(x0)), max(0, floor(y0)), min(columns, ceil(x1)), min(rows, ceil(y1))

    def content(self) -> npt.NDArray[np.bool_]:
        """The cells that show any of the image, i.e. do not lie entirely in the padding.

        Returns:
            (h, w) bool.
        """
        width, height = self.source_size
        return self.cells_of((0, 0, width, height))

    def to_dict(self) -> dict[str, Any]:
        """This geometry as plain JSON values, tagged with its kind."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {name: list(pair) for name, pair in values.items() if isinstance(pair, tuple)}
        return {"kind": self.kind, **values, **lists}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Geometry:
        """The geometry that ``to_dict`` wrote.

        Raises:
            ConfigError: unknown kind, or fields that do not belong to the kind.
        """
        fields = dict(values)
        kind = fields.pop("kind", None)
        registered = get_plugins().geometries
        if kind not in Geometry._kinds and kind in registered.names():
            registered.get(kind)  # its module is imported, and with it the kind is known
        if kind not in Geometry._kinds:
            known = ", ".join(sorted({*Geometry._kinds, *registered.names()}))
            raise ConfigError(f"geometry: unknown kind {kind!r}; known kinds: {known}")
        try:
            return Geometry._kinds[kind](**fields)
        except TypeError as error:
            raise ConfigError(f"geometry of kind {kind!r}: {error}") from error


@dataclass(frozen=True)
class PaddedSquare(Geometry):
    """An image scaled to fit a square and centered in it; the rest of the square is padding.

    ``to_source`` follows the published code, which truncates the scaled image to whole pixels of
    the square before centering it, and so may be off by up to half such a pixel. ``to_grid``
    centers exactly; preprocessing that places the image at whole pixels is within half a pixel.

    Attributes:
        side: side of the square model input, in pixels; a whole number of pixels per cell.

    Raises:
        ConfigError: the grid does not divide ``side``.
    """

    kind: ClassVar[str] = "padded_square"

    side: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "side", _positive(self.side, "side"))
        if any(self.side % cells for cells in self.grid):
            raise ConfigError(
                f"padded_square geometry: side {self.side} is not a whole number of pixels per cell"
                f" for grid {self.grid}"
            )

    @property
    def _cell(self) -> tuple[int, int]:
        """(width, height) of a cell in pixels of the square."""
        rows, columns = self.grid
        return self.side // columns, self.side // rows

    @property
    def _scale(self) -> float:
        """Pixels of the square per source pixel."""
        width, height = self.source_size
        return min(self.side / width, self.side / height)

    def _scale_to_source(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        cell = np.tile(np.array(self._cell, dtype=np.float32), 2)
        scaled = [int(length * self._scale) for length in self.source_size]
        padding = np.tile(np.array([(self.side - length) / 2 for length in scaled], np.float32), 2)
        return (boxes * cell - padding) / np.float32(self._scale)

    def to_grid(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Convert source boxes to grid coordinates; see ``Geometry.to_grid``."""
        center = np.tile(self.source_size, 2) / 2
        return ((_as_boxes(boxes) - center) * self._scale + self.side / 2) / np.tile(self._cell, 2)


@dataclass(frozen=True)
class Letterboxed(Geometry):
    """An image resized to whole pixels, then centered in a square at a whole pixel.

    Rounding to whole pixels, or a minimum side, may scale the two directions differently: an image
    of 1000x1 pixels may be 384x14 in the square.

    Attributes:
        side: side of the square in pixels; the grid need not divide it.
        scaled_size: (width, height) of the image in the square, in pixels. Where the padding is
            odd, the smaller half is above or to the left.

    Raises:
        ConfigError: the scaled image does not fit the square.
    """

    kind: ClassVar[str] = "letterboxed"

    side: int
    scaled_size: tuple[int, int]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "side", _positive(self.side, "side"))
        object.__setattr__(self, "scaled_size", _positive_pair(self.scaled_size, "scaled_size"))
        if max(self.scaled_size) > self.side:
            raise ConfigError(
                f"letterboxed geometry: scaled_size {self.scaled_size} does not fit a square of"
                f" side {self.side}"
            )

    @property
    def _padding(self) -> tuple[int, int]:
        """Pixels of the square (left of, above) the image."""
        width, height = self.scaled_size
        return (self.side - width) // 2, (self.side - height) // 2

    def _scale_to_source(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        rows, columns = self.grid
        cells, source, scaled, padding = (
            np.array([*pair, *pair], dtype=np.float32)
            for pair in ((columns, rows), self.source_size, self.scaled_size, self._padding)
        )
        # Multiplying first keeps whole pixels whole, as long as float32 holds the products.
        inside = boxes * np.float32(self.side) / cells - padding
        return inside * source / scaled

    def to_grid(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Convert source boxes to grid coordinates; see ``Geometry.to_grid``."""
        rows, columns = self.grid
        inside = _as_boxes(boxes) * np.tile(self.scaled_size, 2) / np.tile(self.source_size, 2)
        return (inside + np.tile(self._padding, 2)) * np.tile([columns, rows], 2) / self.side


@dataclass(frozen=True)
class Resized(Geometry):
    """An image stretched to a whole number of cells, with a scale of its own in each direction.

    Attributes:
        cell: side of a cell, in pixels of the resized image.
    """

    kind: ClassVar[str] = "resized"

    cell: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "cell", _positive(self.cell, "cell"))

    @property
    def _shown(self) -> tuple[int, int]:
        """(rows, columns) of cells that show the image."""
        return self.grid

    @property
    def _scale(self) -> npt.NDArray[np.float64]:
        """(4,) source pixels per pixel of the resized image, in the order of a box."""
        width, height = self.source_size
        rows, columns = self._shown
        return np.tile([width / (self.cell * columns), height / (self.cell * rows)], 2)

    def _scale_to_source(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return boxes * np.float32(self.cell) * self._scale.astype(np.float32)

    def to_grid(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Convert source boxes to grid coordinates; see ``Geometry.to_grid``."""
        width, height = self.source_size
        rows, columns = self._shown
        # Multiplying first keeps whole cells whole: (width * columns) / width is exact.
        return _as_boxes(boxes) * np.tile([columns, rows], 2) / np.tile([width, height], 2)


@dataclass(frozen=True)
class ResizedWithBreaks(Resized):
    """Image stretched to all columns of cells but the last, which holds no part of it.

    Some families put a text token behind every row of visual tokens. As a cell of the grid, it
    travels with the image and lies in the padding.

    Raises:
        ConfigError: no column is left that shows the image.
    """

    kind: ClassVar[str] = "resized_with_breaks"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid[1] < 2:
            raise ConfigError("resized_with_breaks geometry: the row breaks are the only column")

    @property
    def _shown(self) -> tuple[int, int]:
        rows, columns = self.grid
        return rows, columns - 1


def _widened(
    boxes: npt.NDArray[np.float32], limit: npt.NDArray[np.float32], min_side: np.float32
) -> npt.NDArray[np.float32]:
    """Sides of at least ``min_side`` around the same centers, moved back into the image."""
    low, high = boxes[:, :2], boxes[:, 2:]
    center, narrow = (low + high) / 2, high - low < min_side
    low = np.where(narrow, center - min_side / 2, low)
    high = np.where(narrow, center + min_side / 2, high)
    back = np.where(low < 0, -low, np.where(high > limit[2:], limit[2:] - high, 0))
    shift = np.where(narrow, back, 0)
    return np.concatenate([low + shift, high + shift], axis=1).astype(np.float32)


def _as_boxes(boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise InputError(f"boxes must have shape (N, 4), not {array.shape}")
    return array


def _overlaps(low: float, high: float, cells: int) -> npt.NDArray[np.bool_]:
    """(cells,) bool: which unit intervals [i, i + 1) share more than an edge with [low, high)."""
    if high <= low:
        return np.zeros(cells, dtype=np.bool_)
    start = np.arange(cells)
    # A box thinner than the tolerance must still overlap a cell.
    slack = min(_EDGE_TOLERANCE, (high - low) / 4)
    return (start < high - slack) & (start + 1 > low + slack)


def _positive_pair(value: Sequence[int], name: str) -> tuple[int, int]:
    pair = tuple(value)
    if len(pair) != 2:
        raise ConfigError(f"geometry: {name} must be a pair of positive integers, not {value!r}")
    first, second = (_positive(part, name) for part in pair)
    return first, second


def _positive(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ConfigError(f"geometry: {name} must be positive integers, not {value!r}")
    return int(value)


def enclosing_box(mask: npt.NDArray[np.bool_]) -> Box:
    """The half-open box around all true cells of a mask, which must not be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

"""Labels of an image's visual tokens: the objects that each cell shows, and their marks."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from sdrpn_glyphs.cell_geometry import POSITION_BINS, SAMPLES, bin_of, in_cells, sampled
from sdrpn_glyphs.marks import CHARACTERS, DIRECTIONS, ROOM, VALUES
from sdrpn_glyphs.scenes import Object, Scene
from sdrpn_glyphs.shapes import COLORS, KINDS, Box

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.grid.geometry import Geometry

WORDS = (*COLORS, *CHARACTERS, *DIRECTIONS)
"""What marks can show; a count of pips is the digit."""
MIN_COVERAGE = 5
"""Sample points (of 64) of a cell that an object must cover to count as visible in it."""
MIN_PIXELS: MappingProxyType[str, float] = MappingProxyType(
    {"dot": 8.0, "character": 9.5, "arrow": 7.5, "pips": 9.5}
)
"""Width of an object at model resolution from which on its mark is labeled."""
INSIDE = 0.9
"""Share of a mark that a crop has to contain."""
MARK_SHARE = 0.3
"""Share of a cell that the mark's box has to cover to lie in it."""

_SIZES = {
    "color": len(COLORS),
    "kind": len(KINDS),
    "column": POSITION_BINS,
    "row": POSITION_BINS,
    "type": len(VALUES),
    "mark": len(WORDS),
    "mark here": len(WORDS),
}


def _slices() -> dict[str, slice]:
    start, found = 0, {}
    for name, size in _SIZES.items():
        found[name] = slice(start, start + size)
        start += size
    return found


LABELS: MappingProxyType[str, slice] = MappingProxyType(_slices())
"""The slice of each group of labels along the last axis."""
LABEL_COUNT = sum(_SIZES.values())


def patch_labels(
    scene: Scene, index: Image.Image, box: Box, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the labels of the visual tokens that show ``box`` of a scene.

    Args:
        scene: the scene.
        index: its ``render_index`` image.
        box: the part of the scene that is shown, in source pixels.
        geometry: where the cells of the grid ``(h, w)`` lie in the box.

    Returns:
        Two uint8 arrays ``(h * w, LABEL_COUNT)``: the labels, 0 or 1, and which of them are known.
    """
    rows, columns = geometry.grid
    shown = sampled(np.asarray(index.crop(box)), geometry)
    cells = shown.reshape(rows, SAMPLES, columns, SAMPLES)
    labels = np.zeros((rows, columns, LABEL_COUNT), np.uint8)
    known = np.ones_like(labels)
    for number, one in enumerate(scene.objects, start=1):
        covered = (cells == number).sum(axis=(1, 3)) >= MIN_COVERAGE
        if not covered.any():
            continue
        x0, y0, x1, y1 = in_cells(geometry, one.box, box)
        labels[covered, LABELS["color"].start + list(COLORS).index(one.color)] = 1
        labels[covered, LABELS["kind"].start + list(KINDS).index(one.kind)] = 1
        labels[covered, LABELS["column"].start + bin_of((x0 + x1) / 2, columns)] = 1
        labels[covered, LABELS["row"].start + bin_of((y0 + y1) / 2, rows)] = 1
        if not _legible(one, box, (x1 - x0) * SAMPLES):
            for group in ("type", "mark", "mark here"):
                known[covered, LABELS[group]] = 0
            continue
        word = WORDS.index(one.mark.value)
        labels[covered, LABELS["type"].start + list(VALUES).index(one.mark.kind)] = 1
        labels[covered, LABELS["mark"].start + word] = 1
        here = _cells_of(in_cells(geometry, one.mark_box, box), (rows, columns))
        labels[here, LABELS["mark here"].start + word] = 1
    return labels.reshape(rows * columns, -1), known.reshape(rows * columns, -1)


def _legible(one: Object, crop: Box, pixels: float) -> bool:
    """Whether a crop contains an object's mark, and shows it large enough."""
    x0, y0, x1, y1 = one.mark_box
    left, top, right, bottom = crop
    width = max(0, min(x1, right) - max(x0, left))
    height = max(0, min(y1, bottom) - max(y0, top))
    if width * height < INSIDE * (x1 - x0) * (y1 - y0):
        return False
    # In an object with little room for it, the mark is smaller.
    return pixels * ROOM[one.kind] / ROOM["square"] >= MIN_PIXELS[one.mark.kind]


def _cells_of(box: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The cells of which a box covers enough, or else the one of its center: bool ``(h, w)``."""
    x0, y0, x1, y1 = box
    rows, columns = np.arange(grid[0]), np.arange(grid[1])
    tall = np.clip(np.minimum(y1, rows + 1) - np.maximum(y0, rows), 0, 1)
    wide = np.clip(np.minimum(x1, columns + 1) - np.maximum(x0, columns), 0, 1)
    found: np.ndarray = np.outer(tall, wide) >= MARK_SHARE
    if not found.any():
        row, column = int((y0 + y1) / 2), int((x0 + x1) / 2)
        found[min(row, grid[0] - 1), min(column, grid[1] - 1)] = True
    return found

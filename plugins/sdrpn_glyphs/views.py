"""What the model is shown of a scene: the whole picture, or a crop of it, at model resolution.

The same two PIL resizes as at inference: bicubic for the picture, bilinear for a crop, which is
stretched to the square input whatever its aspect. Also per-patch labels of a view, and the crops
of a training run, which imitate predicted regions rather than perfect ones.
"""

from __future__ import annotations

import random
from types import MappingProxyType

import numpy as np
from PIL import Image

from .scenes import COLORS, DOT_INDEX_OFFSET, KINDS, PICTURE_SIZE, Box, Scene, Shape

INPUT_SIZE = 80
"""Width and height of the model's input, in pixels."""
PATCH_SIZE = 8
GRID = INPUT_SIZE // PATCH_SIZE
CELL = PICTURE_SIZE // GRID
"""Source pixels that one visual token of the whole picture covers, a side."""
FULL_BOX: Box = (0, 0, PICTURE_SIZE, PICTURE_SIZE)

MIN_COVERAGE = 5
"""Pixels (of 64) of a patch that a shape has to cover to count as seen in it."""
MIN_DOT_COVERAGE = 2
"""Pixels (of 64) of a patch that a dot has to cover to be labelled as lying in it."""
MIN_DOT_PIXELS = 1.6
"""Diameter at model resolution below which a dot is not labelled: nobody could name its color."""

LABELS: MappingProxyType[str, slice] = MappingProxyType(
    {
        "color": slice(0, 8),
        "dot": slice(8, 16),
        "kind": slice(16, 21),
        "column": slice(21, 31),
        "row": slice(31, 41),
        "dot here": slice(41, 49),
    }
)
"""Where each group of per-patch labels lies along the last axis."""
LABEL_COUNT = 49


def show(image: Image.Image, box: Box | None = None) -> np.ndarray:
    """The picture, or one box of it, as uint8 (3, INPUT_SIZE, INPUT_SIZE)."""
    size = (INPUT_SIZE, INPUT_SIZE)
    if box is None:
        view = image.resize(size, Image.Resampling.BICUBIC)
    else:
        view = image.crop(box).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(view).transpose(2, 0, 1)


def patch_labels(scene: Scene, index: Image.Image, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Per-patch labels of the view of ``box``, given the scene's ``render_index`` picture.

    Returns two uint8 arrays (GRID, GRID, LABEL_COUNT): the labels, 0 or 1, and which of them
    count. The dot and the center of a shape are labelled on every patch that the shape covers.
    """
    size = (INPUT_SIZE, INPUT_SIZE)
    owners = np.asarray(index.crop(box).resize(size, Image.Resampling.NEAREST))
    patches = owners.reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE)
    labels = np.zeros((GRID, GRID, LABEL_COUNT), np.uint8)
    counts = np.ones_like(labels)
    color_names, kind_names = list(COLORS), list(KINDS)
    scale_x, scale_y = INPUT_SIZE / (box[2] - box[0]), INPUT_SIZE / (box[3] - box[1])
    for i, shape in enumerate(scene.shapes, start=1):
        is_dot = patches == i + DOT_INDEX_OFFSET
        covered = ((patches == i) | is_dot).sum(axis=(1, 3)) >= MIN_COVERAGE
        if not covered.any():
            continue
        labels[covered, LABELS["color"].start + color_names.index(shape.color)] = 1
        labels[covered, LABELS["kind"].start + kind_names.index(shape.kind)] = 1
        dot_x0, dot_y0, dot_x1, dot_y1 = shape.dot_box
        dot_width = min((dot_x1 - dot_x0) * scale_x, (dot_y1 - dot_y0) * scale_y)
        dot_area = (dot_x1 - dot_x0) * scale_x * (dot_y1 - dot_y0) * scale_y
        if dot_width >= MIN_DOT_PIXELS and is_dot.sum() >= dot_area / 3:
            dot = color_names.index(shape.dot)
            labels[covered, LABELS["dot"].start + dot] = 1
            here = is_dot.sum(axis=(1, 3)) >= MIN_DOT_COVERAGE
            labels[here, LABELS["dot here"].start + dot] = 1
        else:
            counts[covered, LABELS["dot"]] = 0
        center_x, center_y = shape.center
        column = min(GRID - 1, max(0, int((center_x - box[0]) * scale_x / PATCH_SIZE)))
        row = min(GRID - 1, max(0, int((center_y - box[1]) * scale_y / PATCH_SIZE)))
        labels[covered, LABELS["column"].start + column] = 1
        labels[covered, LABELS["row"].start + row] = 1
    return labels, counts


def _clip(x0: float, y0: float, x1: float, y1: float) -> Box:
    """The box inside the picture, at least two pixels wide and high."""
    left, top = (min(PICTURE_SIZE - 2, max(0, round(v))) for v in (x0, y0))
    right, bottom = (min(PICTURE_SIZE, round(v)) for v in (x1, y1))
    return left, top, max(left + 2, right), max(top + 2, bottom)


def cell_crop(rng: random.Random, shape: Shape) -> Box:
    """Whole grid cells around the shape, up to two more on each side, at times off by one."""
    x0, y0, x1, y1 = shape.box
    left, top = x0 // CELL, y0 // CELL
    right, bottom = -(-x1 // CELL), -(-y1 // CELL)
    grow = [rng.choice((0, 0, 1, 1, 1, 2)) for _ in range(4)]
    shift_x, shift_y = (rng.choice((-1, 0, 0, 0, 1)) for _ in range(2))
    return _clip(
        CELL * (left - grow[0] + shift_x),
        CELL * (top - grow[1] + shift_y),
        CELL * (right + grow[2] + shift_x),
        CELL * (bottom + grow[3] + shift_y),
    )


def margin_crop(rng: random.Random, shape: Shape) -> Box:
    """The shape's box with a margin of its own on each side, up to 1.5 times its width."""
    x0, y0, x1, y1 = shape.box
    grow = [rng.uniform(0.05, 1.5) * shape.size for _ in range(4)]
    return _clip(x0 - grow[0], y0 - grow[1], x1 + grow[2], y1 + grow[3])


def stray_crop(rng: random.Random) -> Box:
    """A box of 2 to 5 cells a side anywhere: a region that was predicted wrongly."""
    width, height = (rng.randint(2, 5) for _ in range(2))
    left, top = rng.randint(0, GRID - width), rng.randint(0, GRID - height)
    return _clip(CELL * left, CELL * top, CELL * (left + width), CELL * (top + height))


def training_crop(rng: random.Random, shape: Shape) -> Box:
    """A crop as a region proposal would give it: mostly around the shape, now and then astray."""
    draw = rng.random()
    if draw < 0.62:
        return cell_crop(rng, shape)
    if draw < 0.92:
        return margin_crop(rng, shape)
    return stray_crop(rng)


def kept_tokens(rng: random.Random, crop: Box, shape: Shape) -> np.ndarray:
    """Which tokens of a crop survive a region mask: bool (GRID, GRID), a rough blob on the shape.

    Imitates the policy that crops one enclosing box and drops what lies outside the region.
    """
    rows, columns = np.mgrid[0:GRID, 0:GRID] + 0.5
    x0, y0, x1, y1 = crop
    center_x = (shape.center[0] - x0) / (x1 - x0) * GRID + rng.uniform(-1, 1)
    center_y = (shape.center[1] - y0) / (y1 - y0) * GRID + rng.uniform(-1, 1)
    radius_x = shape.size / (x1 - x0) * GRID * rng.uniform(0.6, 1.5) + rng.uniform(1, 3)
    radius_y = shape.size / (y1 - y0) * GRID * rng.uniform(0.6, 1.5) + rng.uniform(1, 3)
    power = rng.choice((2, 8))
    inside = np.abs((columns - center_x) / radius_x) ** power
    inside += np.abs((rows - center_y) / radius_y) ** power
    kept = inside <= 1
    return kept if kept.sum() >= GRID else np.ones((GRID, GRID), bool)

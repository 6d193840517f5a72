"""Overlays: heatmap and boxes drawn on the source image, with the crops beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import map_coordinates

if TYPE_CHECKING:
    from sdrpn_core.grid.geometry import Box, Geometry
    from sdrpn_core.grid.roi_map import RoIMap

_VIEW = 480
"""Side in pixels of the square that a displayed image fits into."""
_MIN_SIDE = 24
"""Smallest side in pixels of a displayed image; thinner ones are stretched to be visible."""
_GAP = 16
_FONT_SIZE = 16
_LINE = 22
_MAX_ALPHA = 0.65
"""Opacity of the heatmap at its peak; its minimum is transparent."""
_COLORMAP = "inferno"
_BACKGROUND = (255, 255, 255)
_INK = (17, 24, 39)
_RIGHT, _WRONG = (21, 128, 61), (185, 28, 28)
_BOX_COLORS = ((34, 211, 238), (250, 204, 21), (244, 114, 182), (74, 222, 128))
_BOX_WIDTH = 3

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Caption:
    """A line of text under a panel.

    Attributes:
        text: wrapped where it is too long.
        right: whether it is a correct answer, drawn in green or red; ``None`` for plain text.
    """

    text: str
    right: bool | None = None


def draw_overlay(
    image: Image.Image,
    roi: RoIMap | None = None,
    geometry: Geometry | None = None,
    boxes: Sequence[Box] = (),
    captions: Sequence[str | Caption] = (),
) -> Image.Image:
    """Draw a heatmap and the boxes of crops on an image, and the crops beside it.

    Args:
        image: the source image, RGB, upright; enlarged or reduced for display.
        roi: the map to show, from its minimum (transparent) to its maximum (opaque); ``None`` for
            none.
        geometry: where the map's cells lie in ``image``; required with ``roi``. Cells in the
            padding are not shown.
        boxes: crops, source pixels.
        captions: lines below, such as question, answer and outcome.
    """
    return _with_captions(_panel(image, roi, geometry, boxes), captions)


def draw_before_after(
    image: Image.Image,
    question: str,
    before: str | Caption,
    after: str | Caption,
    *,
    roi: RoIMap | None = None,
    geometry: Geometry | None = None,
    boxes: Sequence[Box] = (),
    note: str = "",
) -> Image.Image:
    """Draw the plain answer and the answer with a region side by side.

    Args:
        image: the source image, RGB, upright.
        question: shown on top.
        before: the plain answer, under the image alone.
        after: the answer with the region, under the overlay.
        roi: see :func:``draw_overlay``, like ``geometry`` and ``boxes``.
        geometry: see there.
        boxes: see there.
        note: a last line under the right panel, such as the expected answer.
    """
    left = _with_captions(_panel(image, None, None, ()), [before])
    right = _with_captions(
        _panel(image, roi, geometry, boxes), [after, *([Caption(note)] if note else [])]
    )
    panels = _beside([left, right])
    title = _text_block([Caption(question)], panels.width - 2 * _GAP)
    canvas = _canvas(panels.width, panels.height + title.height + _GAP)
    canvas.paste(title, (_GAP, _GAP))
    canvas.paste(panels, (0, title.height + _GAP))
    return canvas


def heatmap(roi: RoIMap, geometry: Geometry, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Upsample a map to the pixels of its image, displayed at ``size``.

    Args:
        roi: the map.
        geometry: where its cells lie in the source image.
        size: (width, height) in pixels at which the whole source image is displayed.

    Returns:
        (height, width) float32 from 0 (the map's minimum over the image) to 1 (its maximum),
        interpolated between the centers of cells. All zero for a constant map.
    """
    width, height = geometry.source_size
    columns = (np.arange(size[0]) + 0.5) * (width / size[0])
    rows = (np.arange(size[1]) + 0.5) * (height / size[1])
    points = np.zeros((max(size), 4))
    points[: size[0], [0, 2]] = columns[:, None]
    points[: size[1], [1, 3]] = rows[:, None]
    grid = geometry.to_grid(points)
    # Scores belong to the centers of cells, half a cell from the edges that geometries use.
    x, y = grid[: size[0], 0] - 0.5, grid[: size[1], 1] - 0.5
    where = np.stack(np.meshgrid(y, x, indexing="ij"))
    values = map_coordinates(roi.probabilities(), where, order=1, mode="nearest")
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros_like(values)
    return ((values - low) / (high - low)).astype(np.float32)


def _panel(
    image: Image.Image,
    roi: RoIMap | None,
    geometry: Geometry | None,
    boxes: Sequence[Box],
) -> Image.Image:
    """The image with its marks, and a column of crops."""
    shown = _fit(image, _VIEW)
    if roi is not None:
        if geometry is None:
            raise ValueError("a map needs its geometry to be drawn")
        shown = _heated(shown, heatmap(roi, geometry, shown.size))
    draw = ImageDraw.Draw(shown)
    scale = shown.width / image.width, shown.height / image.height
    for box, color in zip(boxes, _box_colors(len(boxes)), strict=True):
        draw.rectangle(_shown_box(box, scale), outline=color, width=_BOX_WIDTH)
    if not boxes:
        return _beside([shown])
    side = (_VIEW - _GAP * (len(boxes) - 1)) // len(boxes)
    crops = [
        _framed(_fit(image.crop(box), max(side - 2 * _BOX_WIDTH, 1)), color)
        for box, color in zip(boxes, _box_colors(len(boxes)), strict=True)
    ]
    return _beside([shown, _stack(crops)])


def _fit(image: Image.Image, side: int) -> Image.Image:
    """The image, enlarged or reduced so that its longer side is ``side``."""
    scale = side / max(image.size)
    size = [max(min(_MIN_SIDE, side), round(length * scale)) for length in image.size]
    # Enlarged pixels of a small crop stay sharp.
    resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return image.convert("RGB").resize((size[0], size[1]), resample)


def _heated(image: Image.Image, heat: npt.NDArray[np.float32]) -> Image.Image:
    alpha = _MAX_ALPHA * heat[..., None]
    colors = colormaps[_COLORMAP](heat)[..., :3] * 255
    blended = np.asarray(image) * (1 - alpha) + colors * alpha
    return Image.fromarray(blended.round().astype(np.uint8))


def _shown_box(box: Box, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """The pixels of a rectangle around a box, never inverted."""
    x0, y0 = round(box[0] * scale[0]), round(box[1] * scale[1])
    return x0, y0, max(x0, round(box[2] * scale[0]) - 1), max(y0, round(box[3] * scale[1]) - 1)


def _box_colors(n: int) -> list[Color]:
    return [_BOX_COLORS[i % len(_BOX_COLORS)] for i in range(n)]


def _framed(image: Image.Image, color: Color) -> Image.Image:
    size = image.width + 2 * _BOX_WIDTH, image.height + 2 * _BOX_WIDTH
    framed = Image.new("RGB", size, color)
    framed.paste(image, (_BOX_WIDTH, _BOX_WIDTH))
    return framed


def _with_captions(panel: Image.Image, captions: Sequence[str | Caption]) -> Image.Image:
    if not captions:
        return panel
    lines = [Caption(caption) if isinstance(caption, str) else caption for caption in captions]
    text = _text_block(lines, max(panel.width, _VIEW + 2 * _GAP) - 2 * _GAP)
    canvas = _canvas(max(panel.width, text.width + 2 * _GAP), panel.height + text.height + _GAP)
    canvas.paste(panel, (0, 0))
    canvas.paste(text, (_GAP, panel.height))
    return canvas


def _text_block(captions: Sequence[Caption], width: int) -> Image.Image:
    lines = [
        (line, _INK if caption.right is None else _RIGHT if caption.right else _WRONG)
        for caption in captions
        for line in _wrapped(caption.text, width)
    ]
    block = _canvas(width, _LINE * len(lines))
    draw = ImageDraw.Draw(block)
    for number, (line, color) in enumerate(lines):
        draw.text((0, number * _LINE), line, fill=color, font=_font())
    return block


def _wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most ``width`` pixels; a longer word is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if _font().getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if _font().getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines if len(lines) == 1 else [line for line in lines if line]


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    # matplotlib ships this font, which covers far more scripts than Pillow's own.
    return ImageFont.truetype(findfont(FontProperties(family="DejaVu Sans")), _FONT_SIZE)


def _beside(images: Sequence[Image.Image]) -> Image.Image:
    width = sum(image.width + _GAP for image in images) + _GAP
    canvas = _canvas(width, max(image.height for image in images) + 2 * _GAP)
    x = _GAP
    for image in images:
        canvas.paste(image, (x, _GAP))
        x += image.width + _GAP
    return canvas


def _stack(images: Sequence[Image.Image]) -> Image.Image:
    height = sum(image.height + _GAP for image in images) - _GAP
    canvas = _canvas(max(image.width for image in images), height)
    y = 0
    for image in images:
        canvas.paste(image, (0, y))
        y += image.height + _GAP
    return canvas


def _canvas(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), _BACKGROUND)

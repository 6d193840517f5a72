"""Pad to a square, then resize, without the memory that the padded square would take."""

from __future__ import annotations

from PIL import Image

MAX_EXACT_SIDE = 2**15
"""Longest side in pixels of an image that is padded at its own size.

Padded in one piece, such an image takes 4 GiB.
"""

_STRIP_PIXELS = 2**22
"""Pixels of the padded image that are there at a time."""


def padded_square(
    image: Image.Image, side: int, color: tuple[int, ...], resample: Image.Resampling
) -> Image.Image:
    """The image in the middle of a square, resized.

    The pixels are those of a square that is padded first and resized then, in which the resampling
    filter mixes image and padding at their border. Beyond ``MAX_EXACT_SIDE`` the image is resized
    first and padded then: what it covers is the same up to a pixel.

    Args:
        image: RGB, of any shape.
        side: of the result in pixels.
        color: RGB of the padding, 0 to 255.
        resample: the resampling filter.

    Returns:
        ``(side, side)`` RGB.
    """
    longer = max(image.size)
    if longer > MAX_EXACT_SIDE:
        width, height = (max(1, round(length * side / longer)) for length in image.size)
        return _centered(image.resize((width, height), resample), (side, side), color)
    # Pillow resamples rows first and columns then, each on its own. So rows can come in strips.
    top = (longer - image.height) // 2
    columns = Image.new("RGB", (side, longer), color)
    rows = max(1, _STRIP_PIXELS // longer)
    for start in range(0, image.height, rows):
        stop = min(start + rows, image.height)
        strip = image.crop((0, start, image.width, stop))
        padded = _centered(strip, (longer, stop - start), color)
        columns.paste(padded.resize((side, stop - start), resample), (0, top + start))
    return columns.resize((side, side), resample)


def _centered(image: Image.Image, size: tuple[int, int], color: tuple[int, ...]) -> Image.Image:
    canvas = Image.new("RGB", size, color)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas

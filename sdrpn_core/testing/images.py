"""Test images in which every visual token sees something different."""

from __future__ import annotations

import numpy as np
from PIL import Image

#: Colored blocks of an image: rows, columns, channels. Neither divides usual grids.
_BLOCKS = (5, 7, 3)


def block_image(seed: int, size: tuple[int, int]) -> Image.Image:
    """Random colored blocks, ``size`` (width, height), the same for the same arguments."""
    blocks = np.random.default_rng(seed).integers(0, 256, _BLOCKS, dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def repainted(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A copy in which every value inside a box has moved by half of its range."""
    copy = image.copy()
    copy.paste(Image.eval(image.crop(box), lambda value: (value + 128) % 256), box[:2])
    return copy

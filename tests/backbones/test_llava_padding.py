"""Padding without the padded square gives the pixels of padding with it, in bounded memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sdrpn_llava.padding import MAX_EXACT_SIDE, padded_square
from tests.tiny import tiny_llava

COLOR = (122, 116, 104)
BICUBIC = Image.Resampling.BICUBIC


def noise(width, height):
    generator = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def padded_first(image, side):
    """Pad, then resize, as LLaVA-1.5 does (``expand2square``)."""
    longer = max(image.size)
    square = Image.new("RGB", (longer, longer), COLOR)
    square.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
    return square.resize((side, side), BICUBIC)


@pytest.mark.parametrize(
    "size",
    [(1, 1), (3, 2), (56, 56), (640, 427), (427, 640), (5, 3000), (3000, 5), (1, 2999), (2000, 1)],
)
@pytest.mark.parametrize("side", [56, 336])
def test_the_pixels_are_those_of_a_square_that_is_padded_first(size, side):
    image = noise(*size)
    found = padded_square(image, side, COLOR, BICUBIC)
    np.testing.assert_array_equal(found, padded_first(image, side))


def test_beyond_the_limit_the_image_is_resized_first():
    image = Image.new("RGB", (MAX_EXACT_SIDE + 1, 400), (255, 0, 0))
    found = np.asarray(padded_square(image, 336, COLOR, BICUBIC))
    red = (found == (255, 0, 0)).all(axis=2)
    assert red.any(axis=1).sum() == round(400 * 336 / MAX_EXACT_SIDE)
    assert red[166:170].all(axis=1).any()
    assert (found[~red] == COLOR).all()


@pytest.mark.parametrize("size", [(1, 65535), (65535, 1)])
def test_a_thread_of_pixels_needs_little_memory(size):
    """Padded first it would need 16 GiB."""
    code = (
        "import resource, sys\n"
        "from PIL import Image\n"
        "from sdrpn_llava.padding import padded_square\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        f"image = Image.new('RGB', {size}, 'red')\n"
        f"padded_square(image, 336, {COLOR}, Image.Resampling.BICUBIC)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_backbone_takes_such_an_image():
    pixels = tiny_llava().preprocess(Image.new("RGB", (1, 65535), "red")).tensors["pixel_values"]
    assert tuple(pixels.shape) == (1, 3, 56, 56)
    assert bool(pixels.isfinite().all())

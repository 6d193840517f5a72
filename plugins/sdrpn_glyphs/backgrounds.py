"""Backgrounds that look like out-of-focus photographs, and what a camera adds to an image."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import MappingProxyType
from typing import IO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Field = npt.NDArray[np.float32]
"""Values from 0 to 1, ``(height, width)``."""

DETAIL = 4
"""Backgrounds are computed at a quarter of the resolution, and enlarged."""
OCTAVES = (3, 6, 12, 24)
"""Cells of the noise along the longer side; each octave is half as strong as the one before."""
VALUE_RANGE = (0.25, 0.75)
"""Range of the mean brightness."""
MAX_SATURATION = 0.3
"""Below that of every object's color."""
MAX_CONTRAST = 0.45

MAX_NOISE = 10.0
"""Largest standard deviation of the sensor's noise, in levels of 255."""
MAX_BLUR = 0.8
"""Largest radius of the lens blur, in source pixels."""
JPEG_QUALITY = (45, 95)
JPEG_SHARE = 0.7
NOISE_SIDE = 640


def background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Draw a background of muted colors, ``size`` = (width, height) in pixels."""
    width, height = (max(2, side // DETAIL) for side in size)
    texture = TEXTURES[list(TEXTURES)[rng.integers(len(TEXTURES))]]
    field = texture(rng, width, height)
    dark, light = _palette(rng)
    pixels = dark + field[..., None] * (light - dark)
    small = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def camera(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Add uneven light, lens blur, sensor noise and, for most images, JPEG artifacts."""
    blur = rng.uniform(0, MAX_BLUR)
    if blur > MAX_BLUR / 2:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    pixels = np.asarray(image, dtype=np.float32)
    height, width, _ = pixels.shape
    top, left = rng.integers(NOISE_SIDE - height + 1), rng.integers(NOISE_SIDE - width + 1)
    noise = _noise()[top : top + height, left : left + width]
    light = _slope(rng, width, height)[..., None] * 0.2 + 0.9
    shot = pixels * light + noise * rng.uniform(0, MAX_NOISE)
    image = Image.fromarray(np.clip(shot, 0, 255).astype(np.uint8))
    if rng.uniform() >= JPEG_SHARE:
        return image
    coded = _Memory()
    quality = int(rng.integers(*JPEG_QUALITY, endpoint=True))
    image.save(cast("IO[bytes]", coded), "JPEG", quality=quality)
    with Image.open(io.BytesIO(coded.data)) as decoded:
        return decoded.convert("RGB")


class _Memory:
    """What is written to it. An encoder asks a file for its descriptor first: this has none."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, part: bytes) -> int:
        self.data += part
        return len(part)

    def flush(self) -> None:
        """Nothing is held back."""


_NOISE: list[Field] = []


def _noise() -> Field:
    """One field of Gaussian noise ``(NOISE_SIDE, NOISE_SIDE, 3)``, of which images get cutouts."""
    if not _NOISE:
        shape = (NOISE_SIDE, NOISE_SIDE, 3)
        _NOISE.append(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    return _NOISE[0]


def _palette(rng: np.random.Generator) -> tuple[Field, Field]:
    """Two muted colors, in levels of 255."""
    value, contrast = rng.uniform(*VALUE_RANGE), rng.uniform(0.08, MAX_CONTRAST)
    colors = []
    for brightness in (value - contrast / 2, value + contrast / 2):
        tint = rng.uniform(-1, 1, 3) * MAX_SATURATION / 2
        colors.append(np.float32(255) * (brightness * (1 + tint)).astype(np.float32))
    return colors[0], colors[1]


def _scaled(field: npt.NDArray[np.floating]) -> Field:
    low, high = field.min(), field.max()
    return ((field - low) / max(high - low, 1e-6)).astype(np.float32)


def _clouds(rng: np.random.Generator, width: int, height: int) -> Field:
    """Noise of several octaves."""
    longer = max(width, height)
    total = np.zeros((height, width), np.float32)
    for strength, cells in enumerate(OCTAVES):
        shape = (max(2, round(cells * height / longer)), max(2, round(cells * width / longer)))
        coarse = Image.fromarray(rng.random(shape, dtype=np.float32))
        smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(smooth) / 2**strength
    return _scaled(total)


def _slope(rng: np.random.Generator, width: int, height: int) -> Field:
    """Light from one side."""
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)
    return _scaled(np.add.outer(np.sin(angle) * y, np.cos(angle) * x))


def _grain(rng: np.random.Generator, width: int, height: int) -> Field:
    """Stripes that bend, like those of wood or cloth."""
    phase = _slope(rng, width, height) * rng.uniform(6, 25) + _clouds(rng, width, height) * 4
    return _scaled(np.sin(phase))


def _tiles(rng: np.random.Generator, width: int, height: int) -> Field:
    """Rectangles of one brightness each, like a wall or a floor."""
    cell = max(width, height) / rng.uniform(4, 12)
    rows, columns = (np.arange(side) // cell for side in (height, width))
    shades = rng.random((int(rows[-1]) + 1, int(columns[-1]) + 1))
    tiles = shades[rows.astype(int)][:, columns.astype(int)]
    return _scaled(tiles + 0.6 * _clouds(rng, width, height))


def _lights(rng: np.random.Generator, width: int, height: int) -> Field:
    """Blurred spots."""
    x, y = np.arange(width), np.arange(height)
    total = 0.7 * _slope(rng, width, height)
    for _ in range(int(rng.integers(6, 20))):
        radius = max(width, height) * rng.uniform(0.03, 0.12)
        distance = np.hypot.outer(y - rng.uniform(0, height), x - rng.uniform(0, width))
        total += 0.4 / (1 + np.exp(np.clip((distance - radius) / 2, -30, 30)))
    return _scaled(total)


def _horizon(rng: np.random.Generator, width: int, height: int) -> Field:
    """A bright upper part above a rough lower one."""
    edge = rng.uniform(0.3, 0.7) * height + 0.15 * height * (_clouds(rng, width, 2)[0] - 0.5)
    below = 1 / (1 + np.exp(-np.clip(np.arange(height)[:, None] - edge, -30, 30)))
    return _scaled(1 - 0.7 * below + 0.5 * below * _clouds(rng, width, height))


TEXTURES: MappingProxyType[str, Callable[[np.random.Generator, int, int], Field]]
TEXTURES = MappingProxyType(
    {
        "clouds": _clouds,
        "slope": _slope,
        "grain": _grain,
        "tiles": _tiles,
        "lights": _lights,
        "horizon": _horizon,
    }
)

"""Open any image as upright 8-bit RGB, or say in one line why it cannot be."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from sdrpn_core.errors import ImageError

MAX_PIXELS = 1024**3 // (4 * 3)
"""Default limit in pixels: a quarter GiB of RGB, also where Pillow begins to warn."""

_DECODE_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged data; they have no common base class."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes the image upright (EXIF 2.3, tag 0x0112)."""

_WHITE = (255, 255, 255)
_MAX_16_BIT = 65535

_WARNING_FILTERS = threading.Lock()


def open_image(
    source: str | Path | bytes | Image.Image, *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Open an image as RGB, rotated as its EXIF orientation says.

    Transparent pixels are laid on white, as a viewer shows them. Gray values of 16 bits are scaled
    to 8, not clipped. Of an animation the first frame is used. An EXIF block that cannot be parsed
    is taken to say nothing about rotation.

    Args:
        source: a path, the bytes of an image file, or a Pillow image (which is not modified).
        max_pixels: images with more pixels are refused before they are decoded.

    Returns:
        A new RGB image without metadata, so that opening it once more changes nothing.

    Raises:
        ImageError: the image is missing, empty, truncated, too large or not an image.
    """
    name = _name(source)
    try:
        image = _open(source, name)
        _check_size(image, name, max_pixels)
        return _to_rgb(_rotated(image), name)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too large for Pillow: {_one_line(error)}") from error
    except ImageError:
        raise
    except _DECODE_ERRORS as error:
        raise ImageError(f"{name}: broken image: {_one_line(error)}") from error


def _name(source: str | Path | bytes | Image.Image) -> str:
    if isinstance(source, (str, Path)):
        return _one_line(source)
    return "<bytes>" if isinstance(source, bytes) else "<image>"


def _one_line(value: object) -> str:
    return " ".join(str(value).split()) or type(value).__name__


def _open(source: str | Path | bytes | Image.Image, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, (str, Path)):
        try:
            data = Path(source).read_bytes()
        except FileNotFoundError as error:
            raise ImageError(f"{name}: no such file") from error
        except OSError as error:
            raise ImageError(f"{name}: cannot be read: {error.strerror}") from error
    else:
        raise ImageError(
            f"expected an image as path, bytes or Pillow image, not {type(source).__name__}"
        )
    if not data:
        raise ImageError(f"{name}: empty (zero bytes)")
    try:
        return _read_header(data)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image in a format that Pillow reads") from error


def _read_header(data: bytes) -> Image.Image:
    # Pillow warns of sizes that `max_pixels` may allow. Filters belong to the process: two threads
    # that leave this block in the wrong order would leave theirs behind.
    with _WARNING_FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data))


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width}x{height} image has no pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width}x{height} is over the limit of {max_pixels} pixels (max_pixels)"
        )


def _rotated(image: Image.Image) -> Image.Image:
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DECODE_ERRORS:
        return image
    if orientation in _UPRIGHT:
        return image.transpose(_UPRIGHT[orientation])
    return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(
            f"{name}: value range of a float image is unknown; save it with 8 or 16 bits"
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        rgb = _gray_8_bit(image, name).convert("RGB")
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, _WHITE)
        rgb.paste(layer, mask=layer.getchannel("A"))
    else:
        rgb = image.convert("RGB")
    # Left in place, an orientation tag would turn the upright image once more.
    rgb.info = {}
    return rgb


def _gray_8_bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _MAX_16_BIT:
        raise ImageError(f"{name}: gray values outside 0..{_MAX_16_BIT}; save it with 8 or 16 bits")
    return Image.fromarray(((values * 255 + _MAX_16_BIT // 2) // _MAX_16_BIT).astype(np.uint8))

"""Open any image as upright 8-bit RGB, or say in one line why it cannot be.

Images come from strangers. So only decoders on a list are tried, sizes are checked before anything
is read or decoded, and whatever a decoder raises on damaged data becomes an :class:`ImageError`.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile

from sdrpn_core.data.limits import MAX_FILE_BYTES, MAX_PIXELS
from sdrpn_core.errors import ImageError
from sdrpn_core.util.formatting import readable_bytes, short_repr

FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "TIFF",
    "BMP",
    "PPM",
    "JPEG2000",
    "HEIF",
    "AVIF",
)
"""Formats that are read, by Pillow's names; HEIF (.heic) needs the extra ``heif``.

Pillow knows more, some of which start a program (EPS runs Ghostscript) or are hardly ever tested.
"""

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
_MAX_8_BIT = 255
_MAX_16_BIT = 65535

_FULL_RANGE = "PPM"
"""The format whose integers Pillow brings to 16 bits, whatever maximum the file states."""

_PREFIX_BYTES = 16
"""What Pillow's plugins look at to recognize their format."""

_NOT_THIS_FORMAT = (SyntaxError, IndexError, TypeError, struct.error)
"""What a plugin raises where the first bytes are its own and the header is not."""

_LIMIT = threading.Lock()

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = frozenset((b"tEXt", b"zTXt", b"iTXt", b"iCCP"))
_PNG_CHUNK_FRAME = 12
"""Bytes of a chunk besides its data: length, type and checksum."""

_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
"""Brands of ISO base media files that hold HEVC images (ISO/IEC 23008-12)."""

_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_MAX_BRAND_BYTES = 256

_MAX_NAME = 1000
"""Characters of a path in a message: what is longer may be an image in base64."""


def open_image(
    source: str | Path | bytes | Image.Image,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_FILE_BYTES,
) -> Image.Image:
    """Open an image as RGB, rotated as its EXIF orientation says.

    Transparent pixels are laid on white, as a viewer shows them. Gray values of 16 bits are scaled
    to 8, not clipped; integers of 32 bits (Pillow's mode ``I``) are as well, unless none exceeds
    255, and floats are refused: their range is unknown. Of an animation the first frame is used. An
    EXIF block that cannot be parsed is taken to say nothing about rotation.

    Args:
        source: a path, the bytes of an image file in one of ``FORMATS``, or a Pillow image (which
            is not modified).
        max_pixels: images with more pixels are refused before they are decoded; a Pillow image
            whose pixels are in memory already is not.
        max_bytes: files with more bytes are refused before they are read.

    Returns:
        A new RGB image without metadata, so that opening it once more changes nothing.

    Raises:
        ImageError: the image is missing, empty, truncated, too large, not a regular file, or not an
            image in a supported format, or the range of its values is unknown.
    """
    name = _name(source)
    try:
        if isinstance(source, ImageFile.ImageFile):
            return _upright_rgb(source, name, max_pixels)
        if isinstance(source, Image.Image):
            return _upright_rgb(source, name, source.width * source.height)
        return _decoded(_read(source, name, max_bytes), name, max_pixels)
    except ImageError:
        raise
    # Decoders raise whatever damaged data leads them to: RuntimeError, AssertionError, MemoryError.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ImageError(f"{name}: broken image: {reason}") from error


def why_not_plain(image: Image.Image) -> str:
    """What sets an image apart from what :func:`open_image` returns; empty for upright RGB.

    Args:
        image: which is not modified.
    """
    if image.mode != "RGB":
        return f"its mode is {image.mode}"
    if image.has_transparency_data:
        return "it has a transparent color"
    orientation = _orientation(image)
    return f"its EXIF orientation is {orientation}" if orientation in _UPRIGHT else ""


def raw_bytes(image: object) -> bytes:
    """Return what a fingerprint covers of a Pillow image: mode, size, and pixels unless broken."""
    if not isinstance(image, Image.Image):
        return type(image).__name__.encode()
    facts = f"{image.mode} {image.size}".encode()
    try:
        return facts + image.tobytes()
    except Exception:  # noqa: BLE001 - opening it will say what is wrong
        return facts


def _name(source: object) -> str:
    if isinstance(source, (str, Path)):
        path = str(source)
        return path if len(path) <= _MAX_NAME else short_repr(path)
    return "<bytes>" if isinstance(source, bytes) else "<image>"


def _read(source: str | Path | bytes, name: str, max_bytes: int) -> bytes:
    if isinstance(source, bytes):
        data = source
        _check_bytes(len(data), name, max_bytes)
    elif isinstance(source, (str, Path)):
        data = _read_file(source, name, max_bytes)
    else:
        raise ImageError(
            f"expected an image as path, bytes or Pillow image, not {type(source).__name__}"
            f"{': use Image.fromarray' if hasattr(source, '__array__') else ''}"
        )
    if not data:
        raise ImageError(f"{name}: empty (zero bytes)")
    return data


def _read_file(path: str | Path, name: str, max_bytes: int) -> bytes:
    try:
        found = os.stat(path)
        # Opening a pipe would wait for its other end, and a device has no end.
        if not stat.S_ISREG(found.st_mode):
            raise ImageError(f"{name}: cannot be read: not a regular file")
        _check_bytes(found.st_size, name, max_bytes)
        with open(path, "rb") as file:
            return file.read(found.st_size)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeEncodeError as error:  # half a surrogate pair names no file
        raise ImageError(f"{name}: no such file") from error


def _check_bytes(size: int, name: str, max_bytes: int) -> None:
    if size > max_bytes:
        raise ImageError(
            f"{name}: {readable_bytes(size)} is over the limit of {readable_bytes(max_bytes)} "
            "(max_bytes)"
        )


def _decoded(data: bytes, name: str, max_pixels: int) -> Image.Image:
    try:
        return _upright_rgb(_identified(data, name), name, max_pixels)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        if max_pixels <= (Image.MAX_IMAGE_PIXELS or max_pixels):
            raise
        with _pillow_limit(max_pixels):
            return _upright_rgb(_identified(data, name), name, max_pixels)
    except ValueError:
        # Pillow refuses a sound PNG for a text or color profile above its limit, which belongs to
        # the process: other threads would see it change. The pixels need neither.
        if not data.startswith(_PNG_SIGNATURE):
            raise
        return _upright_rgb(_identified(_without_metadata(data), name), name, max_pixels)


def _identified(data: bytes, name: str) -> Image.Image:
    """The image, its header read.

    ``Image.open`` holds every image against ``Image.MAX_IMAGE_PIXELS``, a setting of the process
    that ``max_pixels`` may exceed, and warns before that: the plugins are asked one by one here, as
    it does.
    """
    prefix = data[:_PREFIX_BYTES]
    for kind in FORMATS:
        if kind == "HEIF" and not _has_heif(data, name):
            continue
        if kind not in Image.OPEN:
            Image.init()
        factory, accepts = Image.OPEN[kind]
        recognized = accepts is None or accepts(prefix)
        if isinstance(recognized, str):
            raise ImageError(
                f"{name}: this Pillow was built without {kind}: install a wheel of pillow that "
                "has it"
            )
        if recognized:
            try:
                return factory(io.BytesIO(data), "")
            except _NOT_THIS_FORMAT:
                continue
    raise ImageError(f"{name}: not an image in a supported format ({', '.join(FORMATS)})")


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Raise Pillow's own limit for the few decoders that know it, such as that of WebP.

    It belongs to the process. The lock keeps two threads from leaving the raised one behind.
    """
    with _LIMIT:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _has_heif(data: bytes, name: str) -> bool:
    """Whether these are HEVC images; the plugin is registered when the first ones come."""
    if not _brands(data) & _HEIF_BRANDS or _brands(data) & _AVIF_BRANDS:
        return False
    if "HEIF" not in Image.OPEN:
        try:
            from pillow_heif import register_heif_opener
        except ImportError as error:
            raise ImageError(
                f"{name}: HEIC images need a package that is not installed: "
                "pip install 'sdrpn[heif]'"
            ) from error
        register_heif_opener()
    return True


def _brands(data: bytes) -> frozenset[bytes]:
    """Brands of an ISO base media file (ISO/IEC 14496-12), of which HEIF and AVIF are kinds."""
    if data[4:8] != b"ftyp":
        return frozenset()
    size = min(int.from_bytes(data[:4], "big"), _MAX_BRAND_BYTES)
    box = data[8:size]
    # The major brand, its version (which is none), and those that the file is compatible with.
    return frozenset(box[start : start + 4] for start in range(0, len(box), 4))


def _without_metadata(png: bytes) -> bytes:
    """A PNG without the chunks that hold text and color profiles; EXIF stays."""
    kept = [png[: len(_PNG_SIGNATURE)]]
    start = len(_PNG_SIGNATURE)
    while start < len(png):
        length = int.from_bytes(png[start : start + 4], "big")
        end = start + _PNG_CHUNK_FRAME + length
        if png[start + 4 : start + 8] not in _PNG_METADATA:
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


def _upright_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_size(image, name, max_pixels)
    return _to_rgb(_rotated(image), name)


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width}x{height} image has no pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width}x{height} is over the limit of {max_pixels} pixels (max_pixels)"
        )


def _rotated(image: Image.Image) -> Image.Image:
    # At its full size. Pillow's draft mode decodes a large JPEG at a half or a quarter of it, which
    # is faster, but scales in the frequency domain. Whatever filter follows, pixels differ.
    image.load()
    orientation = _orientation(image)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - of what is broken in there the pixels know nothing
        return None


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
    highest = int(values.max())
    if values.min() < 0 or highest > _MAX_16_BIT:
        raise ImageError(f"{name}: gray values outside 0..{_MAX_16_BIT}; save it with 8 or 16 bits")
    # An image of zeros is black in any range.
    if image.mode == "I" and image.format != _FULL_RANGE and 0 < highest <= _MAX_8_BIT:
        raise ImageError(
            f"{name}: the range of its integers is unknown (mode I, values up to {highest}); "
            f"convert it to L or RGB first: image.convert('L') if {_MAX_8_BIT} is white"
        )
    scaled = (values * _MAX_8_BIT + _MAX_16_BIT // 2) // _MAX_16_BIT
    return Image.fromarray(scaled.astype(np.uint8))

"""Images in shards: the struct of Hugging Face datasets, so that shards open there as well."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sdrpn_core.data.text import encodable

if TYPE_CHECKING:
    from sdrpn_core.data.record import ImageSource, Record

__all__ = ["IMAGE_TYPE", "image_cell", "image_of_cell", "portable_image", "skipped_image"]

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

PNG_COMPRESSION_LEVEL = 1
"""Twice as fast as Pillow's default, which would take a fifth of the time of labeling with a small
backbone."""


def portable_image(image: ImageSource | None) -> Path | bytes | None:
    """Return an image in the form a shard keeps, from which training can open it again.

    A path becomes absolute: shards stay small, and the file must stay where it is. Encoded bytes
    are kept as they are. A PIL image becomes PNG bytes of what the backbone saw: RGB, EXIF-rotated.

    Raises:
        ImageError: A PIL image cannot be used.
    """
    if image is None or isinstance(image, bytes):
        return image
    if isinstance(image, Path):
        return Path(os.path.abspath(image))  # not resolve(): a link may be meant to be retargeted
    from sdrpn_core.data.images import open_image

    buffer = io.BytesIO()
    open_image(image).save(buffer, format="PNG", compress_level=PNG_COMPRESSION_LEVEL)
    return buffer.getvalue()


def skipped_image(record: Record) -> Path | None:
    """What is kept of the image of a record that could not be used: its path, if it has one."""
    if record.images and isinstance(record.images[0], Path):
        return Path(encodable(os.path.abspath(record.images[0])))
    return None


def image_cell(image: Path | bytes | None) -> dict[str, Any] | None:
    """A portable image as a value of a column of :data:`IMAGE_TYPE`."""
    if image is None:
        return None
    is_bytes = isinstance(image, bytes)
    return {"bytes": image if is_bytes else None, "path": None if is_bytes else str(image)}


def image_of_cell(cell: Mapping[str, Any] | None) -> Path | bytes | None:
    """The portable image that a value of such a column stands for."""
    if cell is None:
        return None
    encoded: bytes | None = cell["bytes"]
    return Path(cell["path"]) if encoded is None else encoded

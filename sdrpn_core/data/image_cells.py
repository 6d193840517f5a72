"""The images of a row, in the forms that files and data sets use."""

from __future__ import annotations

import base64
import binascii
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.data.limits import MAX_FILE_BYTES
from sdrpn_core.data.text import check_text
from sdrpn_core.errors import InputError
from sdrpn_core.util.formatting import readable_bytes, short_repr

if TYPE_CHECKING:
    from sdrpn_core.data.record import ImageSource

__all__ = ["ImageCells"]

_URL_SCHEMES = ("http://", "https://")
_DATA_SCHEME = "data:"

_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"RIFF",
    b"BM",
    b"II*\0",
    b"MM\0*",
)
"""First bytes of the formats that are stored as base64 text: PNG, JPEG, GIF, WebP, BMP, TIFF."""

_BASE64_PREFIX = 32
"""Characters that are looked at to tell base64 text from a path; a multiple of 4."""

_MIN_BASE64 = 64
"""Characters; the smallest image in base64 is longer, and most paths are shorter."""

_TIMEOUT = 30.0
"""Seconds that a server may be silent."""


@dataclass(frozen=True)
class ImageCells:
    """Reads images from the values of rows.

    A value is a path, encoded bytes, text that holds encoded bytes (base64, or a data URI), a URL,
    a Pillow image, the struct ``{bytes, path}`` of Hugging Face datasets, or a list of these.

    Attributes:
        root: folder of relative paths; ``None``: as each row's file has it.
        allow_urls: whether URLs are downloaded.
    """

    root: Path | None = None
    allow_urls: bool = False

    def read(
        self, value: Any, folder: Path, where: str, *, load: bool = True
    ) -> tuple[ImageSource, ...]:
        """Return the images of a value, not opened.

        Args:
            value: see the class; ``None`` and empty text are no image.
            folder: of the file that the row stands in.
            where: the row's place, for messages.
            load: whether to decode texts and download URLs; else empty bytes stand for them.

        Raises:
            InputError: The value is of another kind, text that cannot be decoded, a URL where these
                are not allowed, or one that cannot be downloaded.
        """
        return tuple(
            self._source(item, self.root or folder, where, load) for item in _items(value, where)
        )

    def _source(self, item: Any, folder: Path, where: str, load: bool) -> ImageSource:
        if not isinstance(item, str):
            return folder / item if isinstance(item, Path) else item
        check_text(item, f"{where}: 'image'")
        if item.startswith(_DATA_SCHEME):
            return _data_uri(item, where) if load else b""
        if item.lower().startswith(_URL_SCHEMES):
            if not self.allow_urls:
                raise InputError(
                    f"{where}: the image is a URL, {short_repr(item)}: to download it, give "
                    "--allow-urls"
                )
            return _download(item, where) if load else b""
        if _is_base64(item):
            return _decoded(item, where) if load else b""
        return folder / item


def _items(value: Any, where: str) -> Iterator[Any]:
    """The single images of a value: texts, bytes, paths and Pillow images."""
    if value is None or value == "":
        return
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _items(item, where)
    elif isinstance(value, Mapping) and value.keys() & {"bytes", "path"}:
        yield from _items(value.get("bytes") or value.get("path"), where)
    elif isinstance(value, (str, bytes, Path)) or hasattr(value, "getexif"):
        yield value
    else:
        raise InputError(
            f"{where}: 'image' must be a path, got {type(value).__name__} {short_repr(value)}"
        )


def _is_base64(text: str) -> bool:
    if len(text) < _MIN_BASE64:
        return False
    try:
        head = base64.b64decode(text[:_BASE64_PREFIX], validate=True)
    except (binascii.Error, ValueError):
        return False
    return head.startswith(_SIGNATURES)


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where}: 'image' is not valid base64: {error}") from error


def _data_uri(text: str, where: str) -> bytes:
    head, comma, data = text.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InputError(f"{where}: 'image' must be a data URI with base64, got {short_repr(text)}")
    return _decoded(data, where)


def _download(url: str, where: str) -> bytes:
    """Fetch an image; only the schemes of ``_URL_SCHEMES`` get here.

    Raises:
        InputError: no answer, an error, or more bytes than an image file may have.
    """
    try:
        # Redirects to other schemes than these and ftp are refused by urllib itself.
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            data: bytes = answer.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise InputError(f"{where}: {short_repr(url)} cannot be downloaded: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise InputError(
            f"{where}: {short_repr(url)} is over the limit of {readable_bytes(MAX_FILE_BYTES)}"
        )
    return data

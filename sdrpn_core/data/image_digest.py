"""Telling images apart by their pixels."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_DIGEST_BYTES = 16


def image_digest(image: Image.Image) -> str:
    """A hex digest of an image's pixels; equal sizes and digests, equal images.

    Args:
        image: opened.
    """
    return hashlib.blake2b(image.tobytes(), digest_size=_DIGEST_BYTES).hexdigest()

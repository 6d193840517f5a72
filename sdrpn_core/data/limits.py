"""How large an image may be by default; a help text shows it without importing PIL."""

from __future__ import annotations

MAX_PIXELS = 1024**3 // (4 * 3)
"""Default limit in pixels: a quarter GiB of RGB, also where Pillow begins to warn."""

MAX_FILE_BYTES = 2**29
"""Default limit of an encoded image in bytes: ``MAX_PIXELS`` of uncompressed 16-bit RGB."""

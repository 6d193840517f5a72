"""Images that a command writes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from sdrpn_core.errors import InputError
from sdrpn_core.util.atomic_files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

__all__ = ["check_folder", "check_image_path", "numbered", "save_image"]


def numbered(path: Path, index: int, n: int) -> Path:
    """``out.png`` for a single image; ``out-1.png``, ``out-2.png`` ... for several."""
    return path if n == 1 else path.with_stem(f"{path.stem}-{index + 1}")


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image, atomically, in the format that the file's name says.

    Raises:
        InputError: no such format.
        SdrpnError: the file cannot be written.
    """
    buffer = io.BytesIO()
    image.save(buffer, format=_format(path))
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def check_image_path(path: Path) -> None:
    """Find out before anything slow whether an image can be written under a name.

    Raises:
        InputError: no such format, or no such folder.
    """
    _format(path)
    check_folder(path)


def check_folder(path: Path) -> None:
    """Refuse a file whose folder does not exist.

    Raises:
        InputError: names the folder.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: no such folder: {path.parent}")


def _format(path: Path) -> str:
    from PIL import Image

    name = Image.registered_extensions().get(path.suffix.lower())
    if name is None or name not in Image.SAVE:
        kind = f"{path.suffix} images" if path.suffix else "an image without a suffix"
        raise InputError(f"{path}: cannot write {kind}: use .png")
    return name

"""Files that exist complete or not at all.

A long run may be killed, or its disk may fill, in the middle of a write. What must survive that is
written to a temporary file in the same folder, flushed to the disk, and moved over its final name
in one step.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from typing import TYPE_CHECKING, BinaryIO

from sdrpn_core.errors import SdrpnError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["atomic_write", "leftovers", "remove_leftovers"]

_TEMPORARY_NAME = re.compile(r"\.(?P<final>.+)\.\d+-[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that appears under ``path`` only when the block ends without an error.

    Readers see the old file or the whole new one. Whatever interrupts the block, short of the
    process being killed, the temporary file is removed; one that a kill leaves behind starts with a
    dot and is found by :func:`leftovers`.

    Args:
        path: final name; its folder must exist.

    Yields:
        The temporary file, opened for writing bytes. Only writing belongs in the block: an
        ``OSError`` raised in it is reported as a failure to write ``path``.

    Raises:
        SdrpnError: the file cannot be written (full disk, no permission, no such folder); one line
            with the path and the system's reason.
    """
    # Not the tempfile module: its files are private (0600) and would stay so under the final name.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _discard(temporary)
        raise SdrpnError(f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        _discard(temporary)
        raise
    _sync_folder(path.parent)


def leftovers(folder: Path) -> dict[str, list[Path]]:
    """Return the temporary files of interrupted (or still running) writes in a folder.

    Returns:
        The paths, sorted, by the name of the file that was to be written.
    """
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        match = _TEMPORARY_NAME.fullmatch(entry.name)
        if match:
            found.setdefault(match["final"], []).append(entry)
    return found


def remove_leftovers(path: Path) -> None:
    """Remove what interrupted writes to ``path`` left; no other process may be writing ``path``."""
    for leftover in leftovers(path.parent).get(path.name, ()):
        _discard(leftover)


def _discard(path: Path) -> None:
    # The error that led here is the one worth reporting, not that the clean-up failed as well.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; not every system can open and flush a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

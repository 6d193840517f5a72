"""One writer per folder: a second run on the same folder is refused, with the name of the first.

The lock is the operating system's, so that it ends with the process that holds it, however that
ends. Its file stays: removing it would let two processes hold locks on two files of one name.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from sdrpn_core.errors import SdrpnError
from sdrpn_core.util.atomic_files import atomic_write

__all__ = ["LOCK_NAME", "OWNER_NAME", "hold_folder"]

LOCK_NAME = ".lock"
#: Who holds the lock, for messages; the lock's own file is emptied by everyone who tries it.
OWNER_NAME = ".lock-owner.json"

_MAX_COMMAND = 200


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Be the only process that writes to a folder for as long as the block lasts.

    Args:
        folder: made if missing.

    Raises:
        SdrpnError: another process holds it (names the process, its machine and its command), or
            the folder cannot be made or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME, timeout=0)
        lock.acquire()
    except Timeout:
        raise SdrpnError(
            f"{folder} is in use by {_owner(folder)}: wait until it has ended, or choose another "
            "folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or "its file system has no locks"
        raise SdrpnError(f"cannot lock the folder {folder}: {reason}") from error
    try:
        _sign(folder)
        yield
    finally:
        lock.release()


def _sign(folder: Path) -> None:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command if len(command) <= _MAX_COMMAND else f"{command[:_MAX_COMMAND]} ...",
    }
    with atomic_write(folder / OWNER_NAME) as file:
        file.write((json.dumps(owner) + "\n").encode())


def _owner(folder: Path) -> str:
    """Who signed last; a process that has just taken the lock may not have signed yet."""
    try:
        owner = json.loads((folder / OWNER_NAME).read_text(encoding="utf-8"))
        return (
            f"process {owner['pid']} on {owner['host']} since {owner['since']} ({owner['command']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

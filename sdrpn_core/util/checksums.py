"""Checksums that show whether a file is still what was written.

Files of tensors carry theirs in their own metadata, where it covers names, dtypes, shapes and
values. Other files have one beside them, in the form that ``sha256sum --check`` reads.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sdrpn_core.util.atomic_files import atomic_write

if TYPE_CHECKING:
    import torch
    from typing_extensions import Buffer

__all__ = [
    "CHECKSUM_SUFFIX",
    "HashingWriter",
    "checksum_path",
    "file_checksum",
    "json_checksum",
    "read_checksum",
    "tensor_checksum",
    "write_checksum",
]

CHECKSUM_SUFFIX = ".sha256"
_CHUNK_BYTES = 1 << 20
_HEX_DIGITS = 64


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def checksum_path(path: Path) -> Path:
    """Where a file's checksum lies: beside it."""
    return path.with_name(path.name + CHECKSUM_SUFFIX)


class HashingWriter(io.RawIOBase):
    """Passes on what is written, and knows its checksum: the file need not be read again.

    Args:
        file: takes the bytes; written front to back.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._digest = hashlib.sha256()

    @property
    def checksum(self) -> str:
        """SHA-256 of all that was written so far, in hexadecimal."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Buffer) -> int:
        """Write bytes and count them in."""
        self._digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._file.tell()


def write_checksum(path: Path, checksum: str) -> None:
    """Write the checksum of a file beside it.

    Write it before the file gets its final name: then no kill leaves a file without one.

    Args:
        path: of the file.
        checksum: of its bytes.

    Raises:
        SdrpnError: it cannot be written.
    """
    with atomic_write(checksum_path(path)) as file:
        file.write(f"{checksum}  {path.name}\n".encode())


def read_checksum(path: Path) -> str | None:
    """The checksum that lies beside a file; ``None`` where there is none, or nothing readable."""
    try:
        text = checksum_path(path).read_bytes()
    except FileNotFoundError:
        return None
    digest, _, name = text.decode(errors="replace").rstrip("\n").partition("  ")
    return digest if name == path.name and len(digest) == _HEX_DIGITS else None


def tensor_checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of named tensors: names, dtypes, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # As bytes: numpy has no bfloat16.
        digest.update(tensor.flatten().view(_byte_dtype()).numpy().tobytes())
    return digest.hexdigest()


def json_checksum(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _byte_dtype() -> torch.dtype:
    import torch

    return torch.uint8

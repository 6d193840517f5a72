"""Checksums that show whether a file is still what was written.

Files of tensors carry theirs in their own metadata, where it covers names, dtypes, shapes and
values. Other files have one beside them, in the form that ``sha256sum --check`` reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.util.atomic_files import atomic_write

if TYPE_CHECKING:
    import torch

__all__ = [
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


def write_checksum(path: Path) -> None:
    """Write the checksum of a finished file beside it.

    Raises:
        SdrpnError: it cannot be written.
    """
    line = f"{file_checksum(path)}  {path.name}\n"
    with atomic_write(checksum_path(path)) as file:
        file.write(line.encode())


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

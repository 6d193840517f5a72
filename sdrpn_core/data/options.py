"""How a source of records is read: what its columns mean, and where its images lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ReadOptions"]


@dataclass(frozen=True)
class ReadOptions:
    """What :func:`~sdrpn_core.data.read.read_records` takes besides the source; see there.

    Attributes:
        columns: column of the source by field of a record, e.g. ``{"question": "query"}``.
        image_root: folder of relative image paths; ``None``: that of the file that names them.
        split: which split of a folder.
        allow_urls: whether images may be downloaded.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    image_root: str | Path | None = None
    split: str | None = None
    allow_urls: bool = False

    def given(self) -> list[str]:
        """Names of the options that are not at their defaults, for messages."""
        default = ReadOptions()
        return [name for name in vars(self) if getattr(self, name) != getattr(default, name)]

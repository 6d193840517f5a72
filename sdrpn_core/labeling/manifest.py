"""The manifest of a label run: what was labeled, by what, and how it is cut into shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sdrpn_core.errors import ShardError
from sdrpn_core.shards.manifest import RunManifest
from sdrpn_core.util.run_manifest import ManifestFormat

__all__ = ["MANIFEST", "LabelManifest"]

#: Its version is that of manifest and shards together; raised when older folders can no longer be
#: continued or read. 2: one row per record.
MANIFEST = ManifestFormat(
    name="manifest.json",
    kind="label run",
    error=ShardError,
    version=2,
    uncompared=("dataset",),  # the same data may be spelled as another path
)


@dataclass(frozen=True)
class LabelManifest(RunManifest):
    """Everything that decides the content of a label run; the provenance names the recipe."""

    format: ClassVar[ManifestFormat] = MANIFEST

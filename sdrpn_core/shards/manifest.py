"""The manifest of a run: of what records, by what, and how it is cut into shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sdrpn_core.errors import ConfigError, ShardError
from sdrpn_core.util.dataclass_reader import read_dataclass
from sdrpn_core.util.run_manifest import ManifestFormat

__all__ = ["RunManifest"]

M = TypeVar("M", bound="RunManifest")


@dataclass(frozen=True)
class RunManifest:
    """Everything that decides the content of a run; each kind of run has a subclass.

    Two runs with manifests that are equal but for ``dataset`` write the same bytes, in any number
    of processes and with any number of interruptions.

    Attributes:
        records: number of records in the source.
        fingerprint: of the source.
        shard_size: records per shard; shard k holds records [k * shard_size, (k+1) * shard_size).
        provenance: plain JSON values: backbone (id, revision, config digest), versions, settings of
            the run. No times and no machine names, which would forbid resuming.
        dataset: what the user called the source; for people only.
        format: of the file.

    Raises:
        ShardError: no records, or no positive shard size.
        TypeError, ValueError: ``provenance`` is no plain JSON.
    """

    format: ClassVar[ManifestFormat]

    records: int
    fingerprint: str
    shard_size: int
    provenance: Mapping[str, Any]
    dataset: str = ""

    def __post_init__(self) -> None:
        if self.records < 1 or self.shard_size < 1:
            raise ShardError(
                f"a {self.format.kind} needs records and a positive shard size, "
                f"got records={self.records} and shard_size={self.shard_size}"
            )
        # In the form it will be read back: tuples become lists, integer keys become text.
        plain = json.loads(json.dumps(self.provenance, allow_nan=False))
        object.__setattr__(self, "provenance", plain)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.records // self.shard_size)

    @property
    def digest(self) -> str:
        """Hex digest of all that is compared; shards carry it, so that none is mixed up."""
        return self.format.digest(asdict(self))

    def shard_records(self, shard: int) -> range:
        """The indices of the records in a shard.

        Raises:
            ShardError: there is no such shard.
        """
        if not 0 <= shard < self.shards:
            raise ShardError(f"there is no shard {shard}: the run has {self.shards}")
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.records))

    def require_same(self, folder: Path) -> None:
        """Check that the run in ``folder`` can be continued as this one.

        Raises:
            ShardError: it cannot; names the fields that differ and what to do.
        """
        self.format.require_same(folder, asdict(self))

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into ``folder``, atomically.

        Raises:
            SdrpnError: it cannot be written.
        """
        self.format.write(folder, asdict(self))

    @classmethod
    def read(cls: type[M], folder: Path) -> M:
        """Read ``manifest.json`` from ``folder``.

        Raises:
            ShardError: it is missing, broken, or of another format version.
        """
        values = cls.format.read(folder)
        try:
            return read_dataclass(cls, values, str(folder / cls.format.name))
        except ConfigError as error:
            raise ShardError(f"{error}: {cls.format.remedy}") from error

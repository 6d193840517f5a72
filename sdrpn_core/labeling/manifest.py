"""The manifest of a label run: what was labeled, by what, and how it is cut into shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sdrpn_core.errors import ShardError
from sdrpn_core.labeling.defaults import DEFAULT_SHARD_SIZE
from sdrpn_core.util.atomic_files import atomic_write

__all__ = ["FORMAT_VERSION", "MANIFEST_NAME", "LabelManifest"]

FORMAT_VERSION = 1
"""Of manifest and shards together; raised when older folders can no longer be continued or read."""

MANIFEST_NAME = "manifest.json"

_SHOWN_DIFFERENCES = 3
_UNCOMPARED = frozenset({"dataset"})  # the same data may be spelt as another path


@dataclass(frozen=True)
class LabelManifest:
    """Everything that decides the content of a label run.

    Two runs with manifests that are equal but for ``dataset`` write the same bytes, in any number
    of processes and with any number of interruptions.

    Attributes:
        records: Number of records in the source.
        fingerprint: Fingerprint of the source.
        shard_size: Records per shard; shard k holds records [k * shard_size, (k+1) * shard_size).
        dataset: What the user called the source; for people only.
        provenance: Plain JSON values: backbone (id, revision, config digest), label recipe,
            versions, generation settings. No times and no machine names, which would forbid
            resuming.
        format_version: Layout of manifest and shards.

    Raises:
        ShardError: No records, or no positive shard size.
        TypeError, ValueError: ``provenance`` is no plain JSON.
    """

    records: int
    fingerprint: str
    shard_size: int = DEFAULT_SHARD_SIZE
    dataset: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.records < 1 or self.shard_size < 1:
            raise ShardError(
                f"a label run needs records and a positive shard size, "
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
        compared = dict(self._compared())
        return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()

    def shard_records(self, shard: int) -> range:
        """Return the indices of the records in a shard.

        Raises:
            ShardError: There is no such shard.
        """
        if not 0 <= shard < self.shards:
            raise ShardError(f"there is no shard {shard}: the run has {self.shards}")
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.records))

    def differences(self, other: LabelManifest) -> list[str]:
        """Return the fields that forbid continuing ``other`` as this run, with both values."""
        ours, theirs = dict(self._compared()), dict(other._compared())
        return [
            f"{name} is {_show(theirs, name)} there and {_show(ours, name)} here"
            for name in sorted(ours.keys() | theirs.keys())
            if _show(ours, name) != _show(theirs, name)
        ]

    def require_same(self, other: LabelManifest, folder: Path) -> None:
        """Check that the run in ``folder``, whose manifest is ``other``, can be continued.

        Raises:
            ShardError: It cannot; names the fields that differ and what to do.
        """
        different = self.differences(other)
        if not different:
            return
        more = len(different) - _SHOWN_DIFFERENCES
        shown = "; ".join(different[:_SHOWN_DIFFERENCES]) + (f"; {more} more" if more > 0 else "")
        raise ShardError(
            f"{folder} holds another label run: {shown}: choose another folder, or --overwrite"
        )

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into ``folder``, atomically.

        Raises:
            SdrpnError: It cannot be written.
        """
        text = json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        with atomic_write(folder / MANIFEST_NAME) as file:
            file.write(text.encode())

    @classmethod
    def read(cls, folder: Path) -> LabelManifest:
        """Read ``manifest.json`` from ``folder``.

        Raises:
            ShardError: It is missing, broken, or of another format version.
        """
        path = folder / MANIFEST_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ShardError(f"{folder} is no label run: it has no {MANIFEST_NAME}") from error
        except OSError as error:
            raise ShardError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise ShardError(f"{path} is broken: {error}: label again with --overwrite") from error
        version = values.get("format_version") if isinstance(values, dict) else None
        if version != FORMAT_VERSION:
            raise ShardError(
                f"{path} has format version {version!r}, this sdrpn reads {FORMAT_VERSION}: "
                "label again with --overwrite, or use the sdrpn that wrote it"
            )
        known = {entry.name for entry in fields(cls)}
        if values.keys() != known:
            odd = ", ".join(sorted(values.keys() ^ known))
            raise ShardError(f"{path} is broken: missing or unknown fields: {odd}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ShardError(f"{path} is broken: {error}") from error

    def _compared(self) -> Iterator[tuple[str, Any]]:
        values = {k: v for k, v in asdict(self).items() if k not in _UNCOMPARED}
        yield from _leaves(values, "")


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Flatten nested mappings to dotted names, so that a difference can be named exactly."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], sort_keys=True) if name in values else "absent"

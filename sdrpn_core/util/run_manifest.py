"""What a run is made of, in a file of its folder, so that only the same run continues it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdrpn_core.errors import SdrpnError
from sdrpn_core.util.json_files import read_json_object, write_json

__all__ = ["ManifestFormat"]

_VERSION_FIELD = "format_version"
_SHOWN_DIFFERENCES = 3


@dataclass(frozen=True)
class ManifestFormat:
    """The manifests of one kind of run: plain JSON values, mappings nested at will.

    Attributes:
        name: of the file.
        kind: of run, as messages call it.
        error: class of what is raised.
        version: of the layout, stored as ``format_version``; ``None``: the file has no version.
        uncompared: dotted names of fields, with all that they hold, in which a run may differ from
            the one that it continues.
        remedy: what to do about another run in the folder.
    """

    name: str
    kind: str
    error: type[SdrpnError]
    version: int | None = None
    uncompared: Collection[str] = ()
    remedy: str = "choose another folder, or --overwrite"

    def digest(self, values: Mapping[str, Any]) -> str:
        """Hex digest of all that is compared."""
        text = json.dumps(self._leaves(values), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def exists(self, folder: Path) -> bool:
        """Whether a folder has such a manifest, sound or not."""
        return (folder / self.name).exists()

    def write(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Write the manifest, atomically.

        Raises:
            SdrpnError: it cannot be written.
        """
        version = {} if self.version is None else {_VERSION_FIELD: self.version}
        write_json(folder / self.name, {**values, **version}, sort_keys=True)

    def read(self, folder: Path) -> dict[str, Any]:
        """Read the manifest, its version left out.

        Raises:
            SdrpnError: of the class ``error``: it is missing, broken, or of another version.
        """
        path = folder / self.name
        if not path.exists():
            raise self.error(f"{folder} is not a {self.kind}: it has no {self.name}")
        try:
            values = read_json_object(path, self.error)
        except self.error as reason:
            raise self.error(f"{reason}: {self.remedy}") from reason
        found = None if self.version is None else values.pop(_VERSION_FIELD, None)
        if found != self.version:
            raise self.error(
                f"{path} has format version {found!r}, this sdrpn reads {self.version}: "
                f"{self.remedy}, or use the sdrpn that wrote it"
            )
        return values

    def require_same(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Check that the run in ``folder`` can be continued as the one of these values.

        Raises:
            SdrpnError: of the class ``error``: it is another run (names what differs), or its
                manifest cannot be read.
        """
        ours, theirs = self._leaves(values), self._leaves(self.read(folder))
        different = [
            f"{name} is {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} here"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]
        if different:
            more = len(different) - _SHOWN_DIFFERENCES
            shown = "; ".join(different[:_SHOWN_DIFFERENCES])
            raise self.error(
                f"{folder} holds another {self.kind}: {shown}"
                f"{f'; {more} more' if more > 0 else ''}: {self.remedy}"
            )

    def _leaves(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Nested mappings as dotted names and JSON texts, less what may differ."""
        plain = json.loads(json.dumps(values))  # what JSON makes of tuples and keys
        leaves: dict[str, str] = {}
        pending = list(plain.items())
        while pending:
            name, value = pending.pop()
            if name in self.uncompared:
                continue
            if isinstance(value, Mapping) and value:
                pending += [(f"{name}.{key}", nested) for key, nested in value.items()]
            else:
                leaves[name] = json.dumps(value, sort_keys=True)
        return leaves

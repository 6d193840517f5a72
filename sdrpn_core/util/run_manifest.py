"""What a run is, so that a folder is only ever continued by the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdrpn_core.errors import CheckpointError
from sdrpn_core.util.atomic_files import atomic_write

RECORD_NAME = "run.json"
FORMAT_VERSION = 1

_SHOWN_DIFFERENCES = 3
#: May change between the sessions of a run.
_UNCOMPARED = (
    "versions",
    "backbone.name",
    "backbone.revision",
    "rpn.backbone.name",
    "rpn.backbone.revision",
)


@dataclass(frozen=True)
class RunRecord:
    """Everything that decides the weights of a run, as plain JSON values.

    Attributes:
        values: nested mappings; see :func:`sdrpn_core.training.stage.train`.
        name: of the file.
        kind: what it describes, in messages.
    """

    values: Mapping[str, Any]
    name: str = RECORD_NAME
    kind: str = "training run"

    @property
    def digest(self) -> str:
        """Hex digest of all that is compared."""
        leaves = _leaves(json.loads(json.dumps(self.values)))
        return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write the file, atomically.

        Raises:
            SdrpnError: it cannot be written.
        """
        values = {"format_version": FORMAT_VERSION, **self.values}
        with atomic_write(folder / self.name) as file:
            file.write((json.dumps(values, indent=2, sort_keys=True) + "\n").encode())

    def require_same(self, folder: Path) -> None:
        """Check that the run in ``folder`` can be continued as this one.

        Raises:
            CheckpointError: it is another run (names what differs), or its record is broken.
        """
        path = folder / self.name
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise CheckpointError(
                f"{path}: is not JSON ({error}): choose another folder"
            ) from error
        if not isinstance(there, dict) or there.pop("format_version", None) != FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: written by another version of sdrpn: choose another folder"
            )
        ours, theirs = _leaves(json.loads(json.dumps(self.values))), _leaves(there)
        different = [
            f"{name} is {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} here"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]
        if different:
            more = len(different) - _SHOWN_DIFFERENCES
            shown = "; ".join(different[:_SHOWN_DIFFERENCES])
            raise CheckpointError(
                f"{folder} holds another {self.kind}: {shown}"
                f"{f'; {more} more' if more > 0 else ''}: choose another folder"
            )


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names and JSON texts, less what may differ."""
    leaves: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in _UNCOMPARED:
            continue
        if isinstance(value, Mapping) and value:
            leaves.update(_leaves(value, f"{name}."))
        else:
            leaves[name] = json.dumps(value, sort_keys=True)
    return leaves

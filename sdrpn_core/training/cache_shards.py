"""One safetensors file of cached samples: written atomically, read one sample at a time.

A file holds ``<position>.hidden``, ``.positions`` and ``.labels`` for every sample, and in its
metadata which run it belongs to and what tensors cannot say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch.utils.data import Dataset

from sdrpn_core.errors import ShardError
from sdrpn_core.training.samples import CachedSample, Item, SkippedSample
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_core.util.checksums import json_checksum, tensor_checksum

SHARD_SAMPLES = 32
"""Samples per file: the work that a kill can lose, seconds for a large backbone on one GPU."""

_PREFIX = "features-"
_SUFFIX = ".safetensors"
_DIGITS = 6
_METADATA_KEY = "sdrpn"
_PARTS = ("hidden", "positions", "labels")


def shard_path(folder: Path, shard: int) -> Path:
    """Path of a shard, such as ``features-000012.safetensors``."""
    return folder / f"{_PREFIX}{shard:0{_DIGITS}d}{_SUFFIX}"


def shard_paths(folder: Path) -> list[Path]:
    """The shards that are in a folder, whichever run they belong to."""
    return sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))


def write_shard(
    folder: Path, shard: int, run: str, items: Sequence[CachedSample | SkippedSample]
) -> None:
    """Write the samples of a shard, in order.

    Args:
        folder: of the cache.
        shard: its number.
        run: digest of what the cache is made for.
        items: the samples; integer labels are stored as int8, positions as int32, all else as it
            is.

    Raises:
        SdrpnError: the file cannot be written; nothing half-written is left.
    """
    tensors: dict[str, torch.Tensor] = {}
    facts: list[dict[str, Any]] = []
    for position, item in enumerate(items):
        if isinstance(item, SkippedSample):
            facts.append({"id": item.id, "skipped": item.reason})
            continue
        fact = {"id": item.id, "start": item.start, "grid": list(item.grid)}
        parts = {
            "hidden": item.hidden,
            "positions": item.positions.to(torch.int32),
            "labels": _narrow(torch.from_numpy(item.labels)),
        }
        facts.append({**fact, "sha256": _checksum(fact, parts)})
        tensors |= {f"{position}.{name}": tensor for name, tensor in parts.items()}
    metadata = {_METADATA_KEY: json.dumps({"run": run, "shard": shard, "samples": facts})}
    with atomic_write(shard_path(folder, shard)) as file:
        file.write(to_safetensors(tensors, metadata=metadata))


class CachedSamples(Dataset[Item]):
    """The samples of a cache that is complete.

    Args:
        folder: of the cache.
        run: digest of what it was made for.
        n_samples: how many there are.
    """

    def __init__(self, folder: Path, run: str, n_samples: int) -> None:
        self.folder = folder
        self.run = run
        self.n_samples = n_samples

    def __len__(self) -> int:
        return self.n_samples

    def __getitem__(self, index: int) -> Item:
        """Read one sample.

        Raises:
            ShardError: its shard is missing, broken, or belongs to another cache.
        """
        shard, position = divmod(index, SHARD_SAMPLES)
        path = shard_path(self.folder, shard)
        try:
            # Opened each time: handles cannot be sent to worker processes, and headers are small.
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
                if (facts.get("run"), facts.get("shard")) != (self.run, shard):
                    raise ShardError(f"{path} belongs to another feature cache: {_REMEDY}")
                sample = facts["samples"][position]
                if "skipped" in sample:
                    return SkippedSample(sample["id"], sample["skipped"])
                parts = {name: file.get_tensor(f"{position}.{name}") for name in _PARTS}
                if sample.pop("sha256") != _checksum(sample, parts):
                    raise ValueError("it is not what its checksum says")
                return CachedSample(
                    id=sample["id"],
                    hidden=parts["hidden"],
                    positions=parts["positions"].long(),
                    start=sample["start"],
                    grid=(sample["grid"][0], sample["grid"][1]),
                    labels=_widened(parts["labels"]).numpy(),
                )
        except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ShardError(f"{path} cannot be read ({reason}): {_REMEDY}") from error


def _narrow(labels: torch.Tensor) -> torch.Tensor:
    return labels if labels.is_floating_point() else labels.to(torch.int8)


def _widened(labels: torch.Tensor) -> torch.Tensor:
    return labels if labels.is_floating_point() else labels.long()


def _checksum(facts: Mapping[str, Any], parts: Mapping[str, torch.Tensor]) -> str:
    """Of a sample: what its tensors are, and what is said of them."""
    return json_checksum({**facts, "tensors": tensor_checksum(parts)})


_REMEDY = "delete it, then train again to remake it"

"""Read a published checkpoint: its configuration, and its tensors one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sdrpn_core.errors import CheckpointError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_CONVERT = (
    'save_file(torch.load("pytorch_model.bin", weights_only=True), "model.safetensors") with '
    "save_file from safetensors.torch does it, file by file"
)


class PublishedCheckpoint:
    """A folder with ``config.json`` and safetensors, in one file or in shards with an index.

    Tensors are read on demand: a published checkpoint contains the whole model, of which the RPN is
    only a small part.

    Args:
        folder: the checkpoint's folder.

    Attributes:
        folder: the same.
        config: its configuration.

    Raises:
        CheckpointError: no such folder, a missing or broken file, or pickled weights.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CheckpointError(
                f"{folder}: no such folder; to download a checkpoint from the Hub, run "
                f"hf download {folder} --local-dir FOLDER"
            )
        self.config = _read_json(self.folder / CONFIG_NAME)
        self._files = self._find_files()

    @property
    def names(self) -> frozenset[str]:
        """The names of its tensors."""
        return frozenset(self._files)

    @property
    def dtype(self) -> str:
        """The name of the configuration's dtype; ``auto`` if there is none."""
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "auto")

    def tensor(self, name: str, rows: int | None = None) -> torch.Tensor:
        """Read a tensor, or its first ``rows`` along dimension 0, as stored.

        Raises:
            CheckpointError: there is no such tensor, or its file cannot be read.
        """
        path = self._file_of(name)
        try:
            with safe_open(path, framework="pt") as file:
                if rows is None:
                    return file.get_tensor(name)
                return file.get_slice(name)[:rows]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot read {name} ({error})") from error

    def shape(self, name: str) -> tuple[int, ...]:
        """Look up the shape of a tensor, without reading it.

        Raises:
            CheckpointError: as for :meth:`tensor`.
        """
        path = self._file_of(name)
        try:
            with safe_open(path, framework="pt") as file:
                return tuple(file.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot read {name} ({error})") from error

    def _file_of(self, name: str) -> Path:
        if name not in self._files:
            raise CheckpointError(f"{self.folder}: contains no tensor {name}")
        return self._files[name]

    def _find_files(self) -> dict[str, Path]:
        """Map tensor names to files."""
        index = self.folder / INDEX_NAME
        if index.is_file():
            return self._indexed(index)
        single = self.folder / WEIGHTS_NAME
        if single.is_file():
            try:
                with safe_open(single, framework="pt") as file:
                    return dict.fromkeys(file.keys(), single)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{single}: cannot be read ({error})") from error
        pickled = sorted(path.name for path in self.folder.glob("*.bin"))
        if pickled:
            raise CheckpointError(
                f"{self.folder}: contains only pickled weights ({pickled[0]}), which can run code "
                f"and are never opened; if you trust them, convert them to safetensors: {_CONVERT}"
            )
        raise CheckpointError(f"{self.folder}: contains neither {WEIGHTS_NAME} nor {INDEX_NAME}")

    def _indexed(self, index: Path) -> dict[str, Path]:
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, Mapping):
            raise CheckpointError(f"{index}: contains no weight_map")
        files = {}
        for name, file in weight_map.items():
            if Path(str(file)).name != file:  # an index must not point out of its folder
                raise CheckpointError(f"{index}: {file!r} is not the name of a file next to it")
            files[name] = self.folder / file
        if missing := sorted({path.name for path in files.values() if not path.is_file()}):
            raise CheckpointError(f"{self.folder}: shards are missing: {', '.join(missing)}")
        return files


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error})") from error
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{path}: is not a JSON object")
    return values

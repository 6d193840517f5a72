"""A benchmark run as its folder holds it, without loading a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sdrpn_bench.item_store import ItemStore, Row
from sdrpn_bench.run_config import CONFIG, RESULTS_NAME
from sdrpn_core.errors import ConfigError
from sdrpn_core.util.dataclass_reader import read_dataclass
from sdrpn_core.util.json_files import read_json_object

__all__ = ["RunSettings", "StoredRun"]


@dataclass(frozen=True)
class RunSettings:
    """What a comparison asks of a run's configuration.

    Attributes:
        metric: its ``name`` and ``options``.
        models: facts by label.
        methods: options by name.
        seed: of random crops.
        batch_size: questions per batch, which are padded to the longest of them.
        max_new_tokens: longest answer.
        max_pixels: of an image.
        load_options: how models were loaded.
    """

    metric: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Mapping[str, Any]]
    seed: int
    batch_size: int
    max_new_tokens: int
    max_pixels: int
    load_options: Mapping[str, str]


@dataclass(frozen=True)
class StoredRun:
    """A run that was finished, or has got this far.

    Attributes:
        folder: where it lies.
        settings: what it was run with.
        environment: versions and hardware by name; empty unless the run was finished.
        scored: per model the rows of the questions that were answered, by record id.
    """

    folder: Path
    settings: RunSettings
    environment: Mapping[str, str]
    scored: Mapping[str, Mapping[str, Row]]

    @classmethod
    def read(cls, folder: str | Path) -> StoredRun:
        """Read a folder that ``sdrpn bench --out`` wrote; it is left as it is.

        Raises:
            ConfigError: no run there, one of several data sets, or a damaged configuration or
                ``results.json``.
            InputError: damaged item results.
        """
        folder = Path(folder)
        if not CONFIG.exists(folder):
            inner = sorted(path.parent for path in folder.glob(f"*/{CONFIG.name}"))
            if inner:
                raise ConfigError(
                    f"{folder} has a run for each of several data sets: name one, such as "
                    f"{inner[0]}"
                )
        config = CONFIG.read(folder)
        known = {one.name: config[one.name] for one in fields(RunSettings) if one.name in config}
        settings = read_dataclass(RunSettings, known, str(folder / CONFIG.name))
        scored: dict[str, dict[str, Row]] = {model: {} for model in settings.models}
        for row in ItemStore(folder).read():
            if "methods" in row and row["model"] in scored:
                scored[row["model"]][row["id"]] = row
        return cls(folder, settings, _environment(folder / RESULTS_NAME), scored)


def _environment(results: Path) -> dict[str, str]:
    """What a finished run says of its environment."""
    if not results.exists():
        return {}
    found = read_json_object(results).get("environment", {})
    if not isinstance(found, dict):
        raise ConfigError(f"{results}: environment must be an object, not {found!r}")
    return found

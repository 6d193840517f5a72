"""``config.json``: what a run is made of, and what tells it from another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdrpn_core.errors import ConfigError
from sdrpn_core.util.run_manifest import ManifestFormat

__all__ = ["CONFIG", "RESULTS_NAME", "require_same_run"]

CONFIG = ManifestFormat("config.json", "benchmark run", ConfigError)

RESULTS_NAME = "results.json"
"""What the run found; written when it is finished."""

#: Without the digest of the records, which says in 64 letters that they are others.
_SETTINGS = replace(CONFIG, uncompared=("data_fingerprint",))

#: What a run has several of, by the name of the setting.
_PARTS = {"methods": "method", "models": "model"}


def require_same_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that the run in ``folder`` can be continued as the one of this configuration.

    Raises:
        ConfigError: it is another run (names methods and models that only one of the two has, else
            the settings that differ, else says that the records do), or cannot be read.
    """
    there = CONFIG.read(folder)
    found = [
        difference
        for key, part in _PARTS.items()
        for difference in _one_sided(part, there.get(key), config[key])
    ]
    if found:
        raise ConfigError(_another(folder, "; ".join(found)))
    _SETTINGS.require_same(folder, config)
    if there.get("data_fingerprint") != config["data_fingerprint"]:
        raise ConfigError(_another(folder, f"the records of {config['data']} are others there"))


def _one_sided(part: str, there: Any, here: Mapping[str, Any]) -> list[str]:
    """What only one of two runs has; nothing if a damaged file does not say what it has."""
    if not isinstance(there, Mapping):
        return []
    return [
        *(f"{part} {name!r} is not part of that run" for name in here if name not in there),
        *(f"{part} {name!r} is part of that run alone" for name in there if name not in here),
    ]


def _another(folder: Path, difference: str) -> str:
    return f"{folder} holds another {CONFIG.kind}: {difference}: {CONFIG.remedy}"

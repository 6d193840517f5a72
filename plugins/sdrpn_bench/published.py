"""Published numbers of a dataset: thresholds that are used, and scores to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdrpn_core.util.dataclass_reader import read_dataclass

__all__ = ["PUBLISHED_KEY", "TOKENS_KEY", "TOTAL_KEY", "Published", "read_published"]

#: Metadata key under which a dataset registers :class:`Published` values, by name of the preset.
PUBLISHED_KEY = "published"
#: Metadata key of the longest answer that a dataset asks for, in tokens.
TOKENS_KEY = "max_new_tokens"
#: Metadata key of the total of the metric that papers report, if it is not the mean score.
TOTAL_KEY = "total"


@dataclass(frozen=True)
class Published:
    """What was published for one model on one dataset.

    Attributes:
        threshold: of the RoI map; ``None``: none was.
        scores: percent, by method.
    """

    threshold: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


def read_published(metadata: Mapping[str, Any]) -> dict[str, Published]:
    """Read what a dataset registers: ``{preset: {"threshold": 0.15, "scores": {"sdrpn": 58.7}}}``.

    Raises:
        ConfigError: a value is of another kind.
    """
    return {
        preset: read_dataclass(Published, values, f"published values of {preset!r}")
        for preset, values in metadata.get(PUBLISHED_KEY, {}).items()
    }

"""Where a model or an RPN may come from, by what was written; nothing here imports torch."""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_source"]


def is_source(value: object) -> bool:
    """Whether a value may name a local folder or a Hub id."""
    return isinstance(value, (str, Path)) and bool(str(value))

"""Data sets of published benchmarks, by name: where they are, how they are asked and scored.

Example:
    >>> from sdrpn_core import read_records
    >>> records = read_records("textvqa", n=100)  # doctest: +SKIP
    >>> records = read_records("textvqa=path/to/local/copy")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from sdrpn_core import hookimpl
from sdrpn_datasets.catalog import CATALOG

SDRPN_API = 1

__all__ = ["CATALOG", "SDRPN_API"]


@hookimpl
def sdrpn_register_datasets(registry: Any) -> None:
    """Register the data sets, each with its metric and what was published on it."""
    for name, dataset in CATALOG.items():
        registry.add(name, dataset, help=dataset.help, **dataset.metadata(name))

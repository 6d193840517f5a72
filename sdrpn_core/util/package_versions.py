"""Versions of the packages that decide what a run computes, for provenance."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["package_versions"]

#: What every stage computes with.
_PACKAGES = ("sdrpn", "torch", "transformers")


def package_versions(*more: str) -> dict[str, str]:
    """Versions by distribution name: sdrpn, torch, transformers, and ``more``."""
    return {name: version(name) for name in (*_PACKAGES, *more)}

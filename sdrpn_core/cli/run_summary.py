"""How commands that make one row per record say what became of the records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from sdrpn_core.shards.run import RunSummary

__all__ = ["plain_summary", "print_counts", "print_skipped"]

_MAX_LISTED = 20


def plain_summary(summary: RunSummary, out: Path) -> dict[str, Any]:
    """The summary as plain JSON values; every skipped record is listed."""
    return {
        "folder": str(out),
        "counts": {status.value: count for status, count in summary.counts.items()},
        "skipped": [
            {"index": s.index, "id": s.id, "status": s.status.value, "reason": s.reason}
            for s in summary.skipped
        ],
    }


def print_counts(summary: RunSummary, out: Path) -> None:
    """Print how many records have which status."""
    counts = ", ".join(f"{n} {status.value}" for status, n in summary.counts.items() if n)
    typer.echo(f"{out}: {counts}")


def print_skipped(summary: RunSummary) -> None:
    """Print the first skipped records, and why they were."""
    for skipped in summary.skipped[:_MAX_LISTED]:
        typer.echo(f"  skipped {skipped.id}: {skipped.status.value}: {skipped.reason}")
    if len(summary.skipped) > _MAX_LISTED:
        typer.echo(f"  and {len(summary.skipped) - _MAX_LISTED} more; --json lists them all")

"""``sdrpn doctor``: what works here, and what to install for the rest."""

from __future__ import annotations

import dataclasses
import json
import platform
from typing import Annotated

import typer

__all__ = ["doctor"]

_COLORS = {"ok": "green", "missing": "yellow", "failed": "red", "disabled": "white"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this installation: what works here, and what to install for the rest.

    Looks at packages, devices, attention implementations, plugins and extras, one line each, and
    exits with status 1 if something failed that should work. What is missing can be installed but
    is not needed.
    """
    from sdrpn_core.cli.installation import examine

    findings = examine()
    failed = [finding for finding in findings if finding.status == "failed"]
    system = {"python": platform.python_version(), "platform": platform.platform()}
    if as_json:
        values = [dataclasses.asdict(finding) for finding in findings]
        typer.echo(json.dumps({**system, "ok": not failed, "findings": values}, indent=2))
    else:
        typer.echo(f"Python {system['python']} on {system['platform']}")
        width = max(len(finding.name) for finding in findings)
        for one in findings:
            status = typer.style(f"{one.status:<8}", fg=_COLORS[one.status])
            rest = " ".join("; ".join(filter(None, (one.detail, one.remedy))).split())
            typer.echo(f"{one.kind:<9} {status} {one.name:<{width}} {rest}".rstrip())
    if failed:
        raise typer.Exit(1)

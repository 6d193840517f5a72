"""``sdrpn plugins``: what is installed, its status, and what each plugin adds."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from sdrpn_core.plugins.manager import CORE_API, KINDS, PluginInfo, get_plugins

__all__ = ["plugins"]

_STYLES = {"ok": "green", "failed": "red", "disabled": "dim"}


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 1 if a plugin failed.")
    ] = False,
) -> None:
    """List plugins, their status, and what each one registers."""
    infos = get_plugins().infos
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(info) for info in infos], indent=2))
    else:
        _print_table(infos)
    if strict and get_plugins().failures:
        raise typer.Exit(1)


def _print_table(infos: list[PluginInfo]) -> None:
    # rich is not needed to list plugins for a program
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"sdrpn plugins (API {CORE_API})", title_justify="left")
    for column in ("name", "version", "origin", "status", "registers"):
        table.add_column(column, overflow="fold")
    for info in infos:
        registers = "\n".join(
            f"{KINDS[kind].label}: {', '.join(names)}" for kind, names in info.registers.items()
        )
        status = Text(info.status, style=_STYLES[info.status])
        table.add_row(
            Text(info.name), Text(info.version), Text(info.origin), status, Text(registers)
        )
    console = Console()
    console.print(table)
    for info in infos:
        if info.error:
            console.print(Text(f"failed: {info.error}", style="red"), soft_wrap=True)

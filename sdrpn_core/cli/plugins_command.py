"""``sdrpn plugins``: what is installed, in which state, and what each plugin adds."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from sdrpn_core.plugins import CORE_API, KINDS, PluginInfo, get_plugins

__all__ = ["plugins"]

_STYLES = {"ok": "green", "failed": "red", "disabled": "dim"}


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if a plugin failed.")] = False,
) -> None:
    """List plugins, their state, and what each registers."""
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
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"sdrpn plugins (API {CORE_API})", title_justify="left")
    for column in ("name", "version", "origin", "status", "registers"):
        table.add_column(column, overflow="fold")
    for info in infos:
        registers = "\n".join(
            f"{KINDS[kind]}: {', '.join(names)}" for kind, names in info.registers.items()
        )
        style = _STYLES[info.status]
        row = (info.name, info.version, info.origin, f"[{style}]{info.status}[/]", registers)
        table.add_row(*(cell if "[" in cell and cell is row[3] else escape(cell) for cell in row))
    console = Console()
    console.print(table)
    for info in infos:
        if info.error:
            console.print(f"failed: {info.error}", style="red", markup=False, soft_wrap=True)

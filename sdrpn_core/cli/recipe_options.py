"""The option that replaces fields of a label recipe."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe-option",
        metavar="KEY=VALUE",
        help="Set another field of the recipe: visual_tokens=576, foreground=0.3; repeatable.",
    ),
]

"""How large an image may be, for all commands that open some."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["MaxPixels"]

MaxPixels = Annotated[
    int, typer.Option("--max-pixels", min=1, help="Refuse images with more pixels.")
]

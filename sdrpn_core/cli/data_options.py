"""How a command reads records: columns, images, splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_core.data.options import ReadOptions

__all__ = ["AllowUrls", "Columns", "ImageRoot", "Split", "read_options"]

DATA_HELP = (
    "JSONL, JSON or Parquet file, folder of Parquet files, hf:ORG/NAME[:CONFIG]:SPLIT, registered "
    "dataset, or its local copy as NAME=PATH."
)

Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="FIELD=COLUMN",
        help="Column that holds a field: question=query; repeatable.",
    ),
]
ImageRoot = Annotated[
    Path | None,
    typer.Option("--image-root", help="Folder of relative image paths; default: the file's."),
]
Split = Annotated[str | None, typer.Option("--split", help="Split of a folder that holds several.")]
AllowUrls = Annotated[
    bool, typer.Option("--allow-urls", help="Download images that are given as URLs.")
]


def read_options(
    columns: list[str] | None, image_root: Path | None, split: str | None, allow_urls: bool
) -> ReadOptions:
    """Gather the options of a command.

    Raises:
        ConfigError: a column without ``=``, or a field given twice.
    """
    from sdrpn_core.data.options import ReadOptions

    named: dict[str, str] = {}
    for pair in columns or []:
        field, separator, column = pair.partition("=")
        if not field or not separator:
            raise ConfigError(f"--column {pair!r}: write FIELD=COLUMN")
        if field in named:
            raise ConfigError(f"--column {field!r} is given twice")
        named[field] = column
    return ReadOptions(named, image_root, split, allow_urls)

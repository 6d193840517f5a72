"""``sdrpn glyphs``: a split as ordinary files, to label, to ask about, or to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sdrpn_core import open_image, read_records
from sdrpn_core.errors import InputError, SdrpnError, UnknownNameError
from sdrpn_core.util.atomic_files import atomic_write
from sdrpn_glyphs import backbone_dir, rpn_dir
from sdrpn_glyphs.dataset import SPLITS
from sdrpn_glyphs.families import NAMES

JSONL_NAME = "data.jsonl"
IMAGES_NAME = "images"


def glyphs(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder to write; without it, print the paths of the models and RPNs."),
    ] = None,
    split: Annotated[str, typer.Option(help="One of: " + ", ".join(SPLITS) + ".")] = "glyphs/small",
    n: Annotated[int, typer.Option(min=1, help="Number of questions.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the images and questions.")] = 0,
) -> None:
    """Write images, and a JSONL file of questions, answers, boxes and topics, to a folder."""
    if folder is None:
        folders = {
            name: {"backbone": str(backbone_dir(name)), "rpn": str(rpn_dir(name))} for name in NAMES
        }
        typer.echo(json.dumps(folders, indent=2))
        return
    typer.echo(str(export(folder, split, n, seed)))


def export(folder: Path, split: str, n: int, seed: int = 0) -> Path:
    """Write a split's first ``n`` items.

    Args:
        folder: created if missing; must not contain another export.
        split: e.g. ``glyphs/small``.
        n: number of items.
        seed: seed of the images and questions.

    Returns:
        The JSONL file.

    Raises:
        UnknownNameError: no such split.
        InputError: the folder already contains an export.
        SdrpnError: a file cannot be written.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    jsonl, images = folder / JSONL_NAME, folder / IMAGES_NAME
    if jsonl.exists():
        raise InputError(f"{jsonl} already exists: choose another folder")
    try:
        images.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SdrpnError(f"cannot create the folder {images}: {error.strerror}") from error
    lines = []
    for index, record in enumerate(read_records(split, n=n, seed=seed)):
        (image,) = record.images
        name = f"{IMAGES_NAME}/{index:05d}.png"
        with atomic_write(folder / name) as file:
            open_image(image).save(file, format="PNG")
        row = {
            "id": record.id,
            "image": name,
            "question": record.question,
            "answer": record.answer,
            "boxes": record.boxes,
            "category": record.category,
        }
        lines.append(json.dumps(row) + "\n")
    with atomic_write(jsonl) as file:
        file.write("".join(lines).encode())
    return jsonl

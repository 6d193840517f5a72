"""The question of a command: a text and one or more images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ImagePath", "MoreImages", "QuestionText", "open_images"]

ImagePath = Annotated[
    str, typer.Argument(metavar="IMAGE", help="Image that the question is about.")
]
QuestionText = Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")]
MoreImages = Annotated[
    list[str] | None,
    typer.Option("--image", "-i", metavar="IMAGE", help="Add another image; repeatable."),
]


def open_images(first: str, more: list[str] | None, question: str) -> list[Image.Image]:
    """Open the images, once the question is known not to be empty.

    Raises:
        InputError: the question is empty.
        ImageError: an image cannot be read.
    """
    if not question.strip():
        raise InputError("the question is empty")
    from sdrpn_core.data.images import open_image

    return [open_image(path) for path in (first, *(more or []))]

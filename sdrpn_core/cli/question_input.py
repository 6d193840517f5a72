"""The question of a command: a text and one or more images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

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


def open_images(
    first: str, more: list[str] | None, question: str, max_pixels: int
) -> list[Image.Image]:
    """Open the images, once the question is known to be one.

    Raises:
        InputError: the question is empty or not valid Unicode.
        ImageError: an image cannot be read.
    """
    from sdrpn_core.data.text import check_question

    check_question(question)
    from sdrpn_core.data.images import open_image

    paths = (first, *(more or []))
    return [open_image(path, max_pixels=max_pixels) for path in paths]

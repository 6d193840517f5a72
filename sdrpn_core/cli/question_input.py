"""The question of a command: a text and one or more images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ImagePath", "MoreImages", "QuestionText", "open_images"]

ImagePath = Annotated[str, typer.Argument(metavar="IMAGE", help="Image the question is about.")]
QuestionText = Annotated[str, typer.Argument(metavar="QUESTION", help="What is asked.")]
MoreImages = Annotated[
    list[str] | None,
    typer.Option("--image", "-i", metavar="IMAGE", help="A further image; repeatable."),
]


def open_images(
    first: str, more: list[str] | None, question: str, max_pixels: int | None
) -> list[Image.Image]:
    """Open the images, after the cheapest check of all.

    Raises:
        InputError: the question is empty or not valid Unicode.
        ImageError: an image cannot be read.
    """
    from sdrpn_core.data.text import check_question

    check_question(question)
    from sdrpn_core.data.images import MAX_PIXELS, open_image

    paths = (first, *(more or []))
    return [open_image(path, max_pixels=max_pixels or MAX_PIXELS) for path in paths]

"""What a backbone is asked: a text, its images, and what the vision encoder gets of these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from sdrpn_core.crops.budget import check_budget
from sdrpn_core.data.images import open_image, why_not_plain
from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from sdrpn_core.grid.geometry import Geometry


@dataclass(frozen=True)
class ImageInput:
    """One image, ready for the vision encoder.

    Attributes:
        tensors: keyword arguments of ``base_model.get_image_features``, for this image alone;
            :meth:`Backbone.collate` puts those of several images together.
        geometry: where its visual tokens lie in the source image.
    """

    tensors: Mapping[str, torch.Tensor]
    geometry: Geometry


@dataclass(frozen=True)
class Question:
    """What is asked: a text and the images that it is about (RGB, upright).

    Attributes:
        text: the question.
        images: images, in the order in which the prompt shows them. Where nothing will be cropped,
            they may be left out for their ``inputs``.
        response_ids: a given response, appended to the prompt (teacher forcing).
        special_tokens: whether special tokens that the text spells, such as an end-of-turn token,
            are meant as such; else they are text.
        first_look_tokens: largest number of visual tokens that each whole image is encoded with,
            in families of dynamic resolution; crops are still cut from the image as it is.
            ``None``: as many as the backbone's processor makes of it.
        inputs: what ``preprocess`` makes of the images, where that was done ahead by a
            :class:`~sdrpn_core.backbone.preprocessing.Preprocessor`; empty where it was not.

    Raises:
        InputError: the images are anything but a tuple (or a list) of images, or one is not RGB or
            not upright.
        ConfigError: the first look has less than one visual token.
    """

    text: str
    images: tuple[Image.Image, ...] = ()
    response_ids: tuple[int, ...] = field(default=())
    special_tokens: bool = False
    first_look_tokens: int | None = None
    inputs: tuple[ImageInput, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        check_budget(self.first_look_tokens, "first_look_tokens")
        if not isinstance(self.images, (tuple, list)):
            raise InputError(f"the images of a Question must be a tuple, {_not(self.images)}")
        for index, image in enumerate(self.images):
            if not isinstance(image, Image.Image):
                raise InputError(f"image {index} of a Question must be opened, {_not(image)}")
            if reason := why_not_plain(image):
                raise InputError(
                    f"image {index} of a Question must be upright RGB, and {reason}: write "
                    "Question.about(image, text)"
                )
        object.__setattr__(self, "images", tuple(self.images))

    @property
    def n_images(self) -> int:
        """How many images the prompt shows."""
        return len(self.images or self.inputs)

    def with_first_look(self, n_tokens: int | None) -> Question:
        """The same with other ``first_look_tokens``; ``None`` leaves the question as it is."""
        if n_tokens is None or n_tokens == self.first_look_tokens:
            return self
        # What was prepared ahead has the other number of tokens.
        return replace(self, first_look_tokens=n_tokens, inputs=())

    @classmethod
    def about(cls, image: str | Path | bytes | Image.Image | Sequence[Any], text: str) -> Question:
        """A question about a path, bytes or image, or about a list of these.

        Raises:
            ImageError: an image cannot be read.
            InputError: an empty list.
        """
        # A string and bytes are sequences too, but each is one image.
        sources: Sequence[Any] = image if isinstance(image, (list, tuple)) else [image]
        if not sources:
            raise InputError("the question has no image")
        return cls(text, tuple(open_image(source) for source in sources))


def checked_questions(questions: Iterable[object]) -> Iterator[Question]:
    """The questions of a batch or a stream, as they come.

    Raises:
        InputError: no list of questions, or something is no question; says which, and what to
            write.
    """
    if isinstance(questions, Question):
        raise InputError("a list of questions is expected, not a Question: write [question]")
    if not isinstance(questions, Iterable):
        raise InputError(
            f"a list of questions is expected, not {type(questions).__name__}: write [question]"
        )
    for index, question in enumerate(questions):
        if not isinstance(question, Question):
            raise InputError(f"question {index} must be a Question, {_not(question)}")
        yield question


def _not(value: object) -> str:
    return f"not {type(value).__name__}: write Question.about(image, text)"

"""Images prepared for the vision encoder without the model: in other threads and processes.

Opening and resizing an image of some megapixels takes a CPU as long as a GPU takes to answer a
question about it, so it is done ahead, while the model is busy with something else.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.question import ImageInput, Question


class _WithoutWeights:
    """What :meth:`Backbone.preprocess` may read of a model. Tensors for it stay on the CPU."""

    def __init__(self, model: Any) -> None:
        self.config = model.config
        self.dtype = model.dtype
        self.device = torch.device("cpu")


class Preprocessor:
    """A backbone's ``preprocess`` alone: small, and it can be sent to other processes.

    Args:
        backbone: whose images are prepared.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._adapter = copy.copy(backbone)
        stand_in: Any = _WithoutWeights(backbone.model)
        self._adapter.model = stand_in

    def __call__(self, image: Image.Image) -> ImageInput:
        """The encoder's input, on the CPU; encoding it moves it to the model.

        Raises:
            ImageError: the family cannot encode the image.
        """
        return self._adapter.preprocess(image)

    def prepared(self, question: Question) -> Question:
        """The question with its inputs.

        It comes back without them if the backbone refuses an image: encoding will then say so, in
        the place where failures are told from each other.
        """
        try:
            return replace(question, inputs=tuple(self._adapter.image_inputs(question)))
        except InputError:
            return question

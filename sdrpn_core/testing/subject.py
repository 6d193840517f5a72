"""The backbone under test: how it is made, what it is asked, and what it has to support."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import ImageInput, Question
from sdrpn_core.testing.checks import check
from sdrpn_core.testing.images import block_image

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.backbone.prompt import Prompt

#: Encoded together; the words may be unknown to a small tokenizer, their number matters.
_TEXTS = (
    "what color is the square ?",
    "how many ?",
    "which letter is on the left of the small circle ?",
    "what is near the red dot ?",
)


class ContractSubject:
    """Options of the contract, as class attributes of the test class.

    Attributes:
        make: ``(attn_implementation="sdpa") -> Backbone``: the adapter on a small model of the
            family's real class with random weights, in float32 on the CPU. It needs at least
            ``branch + n_rpn_layers + 1`` decoder layers. With the usual small initialization most
            mistakes hide below the tolerances: spread the weights so that attention is peaked, e.g.
            with a standard deviation of 0.2.
        sizes: (width, height) of ordinary images, at least two of different shapes, which the
            family must encode. At least eight pixels per visual token in each direction.
        supports_text_only: whether the family answers questions without an image.
        supports_several_images: whether a question may have several images.
        max_visual_tokens: most visual tokens that the small model's processor may make of an
            image; ``None``: whatever its context holds.
        min_visual_tokens: fewest visual tokens that it may make of one.
        system_message: what the family puts in front of every conversation, besides what its chat
            template does by itself.
        stock_options: options of the stock image processor that the family has decided on, such as
            not to cut images into tiles.
        branch: B of the checks.
        n_rpn_layers: R of the checks.
    """

    make: ClassVar[Callable[..., Backbone]]
    sizes: ClassVar[Sequence[tuple[int, int]]] = ((240, 160), (160, 240), (150, 150), (320, 80))
    supports_text_only: ClassVar[bool] = True
    supports_several_images: ClassVar[bool] = True
    max_visual_tokens: ClassVar[int | None] = None
    min_visual_tokens: ClassVar[int] = 1
    system_message: ClassVar[str | None] = None
    stock_options: ClassVar[Mapping[str, Any] | None] = None
    branch: ClassVar[int] = 2
    n_rpn_layers: ClassVar[int] = 2

    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls) -> Backbone:
        """The adapter under test."""
        return cls.made()

    @classmethod
    def made(cls, **options: Any) -> Backbone:
        """Call ``make``, and check that the result can be tested."""
        check(hasattr(cls, "make"), "make: set it to a function that returns the adapter")
        backbone = cls.make(**options)
        check(
            isinstance(backbone, Backbone),
            f"make: returned a {type(backbone).__name__}, not an adapter (a Backbone)",
        )
        needed = cls.branch + cls.n_rpn_layers + 1
        check(
            backbone.n_layers >= needed,
            f"make: the checks need {needed} decoder layers or more, the model has "
            f"{backbone.n_layers}: make it deeper, or lower branch and n_rpn_layers",
        )
        return backbone

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test per image size."""
        if "size" in metafunc.fixturenames:
            names = [f"{width}x{height}" for width, height in self.sizes]
            metafunc.parametrize("size", list(self.sizes), ids=names)

    @classmethod
    def questions(cls) -> list[Question]:
        """A batch with one image, several or none, of different shapes, as far as supported."""
        images = [block_image(seed, size) for seed, size in enumerate(cls.sizes)]
        asked = [Question(_TEXTS[0], (images[0],)), Question(_TEXTS[3], (images[-1],))]
        if cls.supports_several_images:
            asked.append(Question(_TEXTS[1], (images[1], images[0])))
        if cls.supports_text_only:
            asked.append(Question(_TEXTS[2]))
        return asked

    @classmethod
    def stock_ids(cls, backbone: Backbone, question: Question) -> list[int]:
        """Ids that the stock processor makes of a question; override for a family that differs."""
        content: list[Any] = [{"type": "image", "image": image} for image in question.images]
        messages = [
            {"role": "user", "content": [*content, {"type": "text", "text": question.text}]}
        ]
        if cls.system_message is not None:
            text = {"type": "text", "text": cls.system_message}
            messages.insert(0, {"role": "system", "content": [text]})
        data = backbone.processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs=dict(cls.stock_options or {}) if question.images else {},
        )
        (ids,) = data["input_ids"]
        return list(ids)

    @classmethod
    def crop_frame(cls, backbone: Backbone) -> tuple[list[int], list[int]] | None:
        """Ids before and behind a crop's tokens; ``None``: crops are framed like further images.

        Override for a family that frames them otherwise: the stock processor has no such prompts.
        """
        return None

    @classmethod
    def stock_image(cls, backbone: Backbone, image: Image.Image, method: str) -> Image.Image:
        """What the stock image processor is shown; override for a family that prepares images.

        Args:
            backbone: the adapter.
            image: an image, or a crop.
            method: ``preprocess`` or ``preprocess_crop``.
        """
        return image

    @classmethod
    def stock_inputs(
        cls, backbone: Backbone, prompt: Prompt, ids: torch.Tensor, images: Sequence[ImageInput]
    ) -> dict[str, Any]:
        """Arguments of the stock ``forward`` for one question; override for a family that differs.

        Args:
            backbone: the adapter.
            prompt: the question, encoded.
            ids: ``(1, length)``, with as many image tokens as ``prompt`` has visual tokens.
            images: its images, preprocessed.
        """
        inputs: dict[str, Any] = {"input_ids": ids}
        if images:
            inputs.update(backbone.collate(images))
        # Where positions or masks depend on the modality, the stock processor marks image tokens.
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in inspect.signature(backbone.model.forward).parameters:
                inputs[name] = (ids == backbone.image_token_id).int()
        return inputs

"""LLaVA-1.5 on stock ``LlavaForConditionalGeneration``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.grid.geometry import PaddedSquare, Resized
from sdrpn_llava.padding import padded_square

if TYPE_CHECKING:
    import torch

#: The system message of the Vicuna v1 conversation that LLaVA-1.5 was trained with.
SYSTEM_MESSAGE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


class LlavaBackbone(Backbone):
    """Padded-square images, stretched crops, the Vicuna prompt."""

    model_types = ("llava",)

    def preprocess(self, image: Image.Image) -> ImageInput:
        """Pad to a centered square with the mean color, as in the training of LLaVA-1.5.

        The processor on the Hub would crop the sides of a non-square image instead.
        """
        side = self.model.config.vision_config.image_size
        square = padded_square(image, side, self._mean_color, Image.Resampling.BICUBIC)
        pixels, cells, cell = self._pixels(square, Image.Resampling.BICUBIC)
        return ImageInput(pixels, PaddedSquare(image.size, (cells, cells), side=cells * cell))

    def preprocess_crop(self, image: Image.Image) -> ImageInput:
        """Stretch to the square, whatever the aspect ratio (published code)."""
        pixels, cells, cell = self._pixels(image, Image.Resampling.BILINEAR)
        return ImageInput(pixels, Resized(image.size, (cells, cells), cell))

    def chat_text(self, question: str, n_images: int) -> str:
        """Use the processor's chat template if it has one, with the Vicuna system message."""
        content = [{"type": "image"}] * n_images + [{"type": "text", "text": question}]
        messages = [
            {"role": "system", "content": [{"type": "text", "text": SYSTEM_MESSAGE}]},
            {"role": "user", "content": content},
        ]
        if getattr(self.processor, "chat_template", None):
            return str(
                self.processor.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False
                )
            )
        images = f"{self.tokenizer.convert_ids_to_tokens(self.image_token_id)}\n" * n_images
        return f"{SYSTEM_MESSAGE} USER: {images}{question} ASSISTANT:"

    @property
    def _mean_color(self) -> tuple[int, ...]:
        return tuple(int(mean * 255) for mean in self.processor.image_processor.image_mean)

    def _pixels(
        self, image: Image.Image, resample: Image.Resampling
    ) -> tuple[dict[str, torch.Tensor], int, int]:
        """Make the encoder's input; also return the cells per side, and the pixels per cell."""
        vision = self.model.config.vision_config
        resized = image.resize((vision.image_size, vision.image_size), resample)
        pixels: torch.Tensor = self.processor.image_processor(
            resized, do_resize=False, do_center_crop=False, return_tensors="pt"
        )["pixel_values"]
        cells = vision.image_size // vision.patch_size
        return {"pixel_values": self.to_model(pixels)}, cells, vision.patch_size

"""Idefics3 and SmolVLM on their stock ``*ForConditionalGeneration`` classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.prompt import ImageSegment, Segment, TextSegment
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.grid.geometry import Resized

if TYPE_CHECKING:
    from PIL import Image


class SmolVLMBackbone(Backbone):
    """One stretched tile per image; crops take the place of the processor's own tiles."""

    model_types = ("idefics3", "smolvlm")
    trained_on_tiles = True

    def preprocess(self, image: Image.Image) -> ImageInput:
        """Stretch to the encoder's square."""
        data = self.processor.image_processor(image, do_image_splitting=False, return_tensors="pt")
        config = self.model.config
        pixels = self.to_model(data["pixel_values"])
        cell = config.vision_config.patch_size * config.scale_factor
        grid = (pixels.shape[-2] // cell, pixels.shape[-1] // cell)
        return ImageInput({"pixel_values": pixels}, Resized(image.size, grid, cell))

    def chat_text(self, question: str, n_images: int) -> str:
        """The chat template, with what the processor writes around the tokens of an image."""
        placeholder, around, tag = self._marks
        framed = f"{around}{tag}{placeholder}{around}"
        return super().chat_text(question, n_images).replace(placeholder, framed)

    def frame_crop(self, crop: ImageSegment) -> tuple[Segment, ...]:
        """One more image behind the first: what ended that one ends the crop."""
        _, around, tag = self._marks
        ids = self.tokenizer.convert_tokens_to_ids([around, around, tag])
        return (TextSegment(tuple(ids)), crop)

    @property
    def _marks(self) -> tuple[str, str, str]:
        """The placeholder, what stands around an image, and what says that it is a whole one."""
        names = self.processor
        # The two processors call it differently.
        tag = getattr(names, "global_image_token", None) or names.global_image_tag
        return names.image_token, names.fake_image_token, tag

"""Gemma 3 on stock ``Gemma3ForConditionalGeneration``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.prompt import ImageSegment, Segment, TextSegment
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.grid.geometry import Resized
from sdrpn_core.runtime.kv_cache import CACHE_NAME, cache_argument

if TYPE_CHECKING:
    from PIL import Image


class Gemma3Backbone(Backbone):
    """One stretched square per image; behind a token's embedding stands whether it is visual.

    An image's tokens attend to each other both ways. Crops take the place of the processor's own
    ("pan and scan"), which are switched off.
    """

    model_types = ("gemma3",)
    trained_on_tiles = True

    def preprocess(self, image: Image.Image) -> ImageInput:
        """Stretch to the encoder's square."""
        data = self.processor.image_processor(image, do_pan_and_scan=False, return_tensors="pt")
        config = self.model.config
        cells = int(config.mm_tokens_per_image**0.5)
        cell = config.vision_config.image_size // cells
        pixels = self.to_model(data["pixel_values"])
        return ImageInput({"pixel_values": pixels}, Resized(image.size, (cells, cells), cell))

    def chat_text(self, question: str, n_images: int) -> str:
        """The chat template, with what the processor writes around the tokens of an image."""
        names = self.tokenizer
        framed = f"\n\n{names.boi_token}{names.image_token}{names.eoi_token}\n\n"
        return super().chat_text(question, n_images).replace(names.boi_token, framed)

    def image_features(self, inputs: Sequence[ImageInput]) -> list[torch.Tensor]:
        """Projected features, and a one."""
        return [F.pad(features, (0, 1), value=1.0) for features in super().image_features(inputs)]

    @property
    def token_width(self) -> int:
        """The embedding, and whether the token is visual."""
        return self.hidden_size + 1

    @property
    def masks_need_rows(self) -> bool:
        """Images are blocks."""
        return True

    def decoder_inputs(self, rows: torch.Tensor, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Masks from the stock model's own builder.

        What is cached counts as text: its tokens are done with, and no image is cut in two.
        """
        embeds, is_visual = rows[..., :-1], rows[..., -1]
        cache = inputs.get(CACHE_NAME)
        n_cached = 0 if cache is None else cache.get_seq_length()
        masks = self.model.create_masks_for_generate(
            config=self.model.config,
            inputs_embeds=embeds,
            attention_mask=inputs.get("attention_mask"),
            position_ids=inputs.get("position_ids"),
            token_type_ids=F.pad(is_visual.long(), (n_cached, 0)),
            **cache_argument(cache),
        )
        return {"inputs_embeds": embeds, "attention_mask": masks}

    def frame_crop(self, crop: ImageSegment) -> tuple[Segment, ...]:
        """One more image behind the first: what ended that one ends the crop."""
        names = self.tokenizer
        between = f"{names.eoi_token}\n\n\n\n{names.boi_token}"
        return (TextSegment(tuple(names(between, add_special_tokens=False).input_ids)), crop)

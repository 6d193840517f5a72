"""What a family does to images before its stock processor sees them, said to the contract."""

from __future__ import annotations

from PIL import Image

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.testing.subject import ContractSubject
from sdrpn_llava.backbone import SYSTEM_MESSAGE


def bare(backbone: Backbone) -> tuple[list[int], list[int]]:
    """Crops stand right behind their image, as published."""
    return [], []


def between_vision_tokens(backbone: Backbone) -> tuple[list[int], list[int]]:
    """Crops lie within their image's vision tokens, as published, with a pair of their own."""
    config = backbone.model.config
    return [config.vision_start_token_id], [config.vision_end_token_id]


class LlavaSubject(ContractSubject):
    """Images padded to squares and resized, crops stretched, and a system message."""

    system_message = SYSTEM_MESSAGE
    crop_frame = staticmethod(bare)

    @classmethod
    def stock_image(cls, backbone: Backbone, image: Image.Image, method: str) -> Image.Image:
        side = backbone.model.config.vision_config.image_size
        if method == "preprocess_crop":
            return image.resize((side, side), Image.Resampling.BILINEAR)
        longest = max(image.size)
        color = tuple(int(255 * mean) for mean in backbone.processor.image_processor.image_mean)
        square = Image.new("RGB", (longest, longest), color)
        square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
        return square.resize((side, side), Image.Resampling.BICUBIC)

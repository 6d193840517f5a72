"""DeepSeek-VL on the stock ``DeepseekVL`` and ``DeepseekVLHybrid`` classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdrpn_core.backbone import Backbone, ImageInput
from sdrpn_core.geometry import PaddedSquare

if TYPE_CHECKING:
    from PIL import Image


class DeepseekVLBackbone(Backbone):
    """Padded squares; every vision encoder's pixels come from the stock processor."""

    model_types = ("deepseek_vl", "deepseek_vl_hybrid")

    def preprocess(self, image: Image.Image) -> ImageInput:
        """Resize the longer side, pad to a centred square in the mean colour."""
        data = self.processor.image_processor(images=[image], return_tensors="pt")
        vision = self.model.config.vision_config
        cells = vision.image_size // vision.patch_size
        tensors = {name: self.to_model(value) for name, value in data.items()}
        return ImageInput(tensors, PaddedSquare(image.size, (cells, cells), vision.image_size))

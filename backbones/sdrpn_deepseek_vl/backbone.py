"""DeepSeek-VL on the stock ``DeepseekVL`` and ``DeepseekVLHybrid`` classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.grid.geometry import Letterboxed

if TYPE_CHECKING:
    from PIL import Image

#: The system message of the conversation that DeepSeek-VL was trained with (arXiv:2403.05525 and
#: its code). Chat templates on the Hub begin with it.
SYSTEM_MESSAGE = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)


class DeepseekVLBackbone(Backbone):
    """Letterboxed images for one or two vision encoders, and the DeepSeek-VL conversation.

    Crops are letterboxed like whole images: the models were trained on nothing else, and no
    published code stretches crops for this family.
    """

    model_types = ("deepseek_vl", "deepseek_vl_hybrid")

    def preprocess(self, image: Image.Image) -> ImageInput:
        """Fit the image into a square and pad it with the mean color, by the stock processor.

        With two encoders, the image is fitted into the larger square, and the smaller square is a
        downscaled copy: the larger one determines where the image lies.
        """
        processor = self.processor.image_processor
        data = processor(images=[image], return_tensors="pt")
        side = data.get("high_res_pixel_values", data["pixel_values"]).shape[-1]
        scale = side / max(image.size)
        width, height = (max(round(length * scale), processor.min_size) for length in image.size)
        vision = self.model.config.vision_config
        cells = vision.image_size // vision.patch_size
        return ImageInput(
            {name: self.to_model(pixels) for name, pixels in data.items()},
            Letterboxed(image.size, (cells, cells), side, (width, height)),
        )

    def chat_text(self, question: str, n_images: int) -> str:
        """Use the processor's chat template if it has one, else the published conversation."""
        if getattr(self.processor, "chat_template", None):
            return super().chat_text(question, n_images)
        images = self.tokenizer.convert_ids_to_tokens(self.image_token_id) * n_images
        return f"{SYSTEM_MESSAGE}\n\nUser: {images}{question}\n\nAssistant:"

"""InternVL on stock ``InternVLForConditionalGeneration``."""

from sdrpn_core import Backbone, ImageInput, Resized


class InternVLBackbone(Backbone):
    """One tile per image, and one for each crop."""

    model_types = ("internvl",)

    def preprocess(self, image):
        """Stretch the image to one tile; the RPN's crops replace the family's own tiling."""
        data = self.processor.image_processor(image, crop_to_patches=False, return_tensors="pt")
        pixels = self.to_model(data["pixel_values"])
        config = self.model.config
        cell = round(config.vision_config.patch_size[0] / config.downsample_ratio)
        grid = (pixels.shape[-2] // cell, pixels.shape[-1] // cell)
        return ImageInput({"pixel_values": pixels}, Resized(image.size, grid, cell))

    def chat_text(self, question, n_images):
        """The chat template, with the tokens that the processor adds around every image."""
        names = self.processor
        framed = f"{names.start_image_token}{names.image_token}{names.end_image_token}"
        return super().chat_text(question, n_images).replace(names.image_token, framed)

"""Qwen2.5-VL on stock ``Qwen2_5_VLForConditionalGeneration``."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.prompt import ImageSegment, Prompt, Segment, TextSegment
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.errors import ImageError
from sdrpn_core.grid.geometry import Resized
from sdrpn_core.grid.native import native_grid
from sdrpn_core.grid.pixel_budget import fitting_options

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Self


_LEAST_TOKENS = 4
"""Visual tokens that the family's stock processor makes of any image, unless it is told another."""


class Qwen2_5VLBackbone(Backbone):  # noqa: N801  # as transformers writes it
    """Images of any shape, each with its own grid; crops between vision start and end tokens."""

    model_types = ("qwen2_5_vl",)
    dynamic_resolution = True
    #: Visual tokens that no image may exceed; ``None``: what the processor makes, as published.
    _budget: int | None = None

    def preprocess(self, image: Image.Image) -> ImageInput:
        """Resize within the processor's ``min_pixels`` and ``max_pixels``, keeping the shape.

        Raises:
            ImageError: the processor refuses the shape (an aspect ratio above 200).
        """
        try:
            processor = self.processor.image_processor
            options = fitting_options(processor, image.size, self._budget)
            data = processor(images=[image], return_tensors="pt", **options)
        except ValueError as error:
            width, height = image.size
            raise ImageError(f"an image of {width}x{height} pixels is refused: {error}") from error
        vision = self.model.config.vision_config
        _, rows, columns = data["image_grid_thw"][0].tolist()
        grid = (rows // vision.spatial_merge_size, columns // vision.spatial_merge_size)
        tensors = {
            "pixel_values": self.to_model(data["pixel_values"]),
            "image_grid_thw": self.to_model(data["image_grid_thw"]),
        }
        return ImageInput(tensors, Resized(image.size, grid, self._cell))

    def preprocess_crop(self, image: Image.Image) -> ImageInput:
        """Preprocess a crop like an image, unless it is smaller than a visual token.

        Raises:
            ImageError: a side is shorter than a visual token, as published, or the processor
                refuses the shape.
        """
        self._check_crop(image)
        return self.preprocess(image)

    def preprocess_native_crop(self, image: Image.Image, limit: int) -> ImageInput:
        """Resize a crop to its native grid; what is refused is what :meth:`preprocess_crop` does.

        Raises:
            ImageError: see there.
        """
        self._check_crop(image)
        processor, cell = self.processor.image_processor, self._cell
        most = min(limit, processor.size["longest_edge"] // cell**2)
        rows, columns = native_grid(image.size, cell, most, least=_LEAST_TOKENS)
        fitted = image.resize((columns * cell, rows * cell), processor.resample)
        item = self.with_visual_tokens(rows * columns).preprocess(fitted)
        return replace(item, geometry=replace(item.geometry, source_size=image.size))

    def with_visual_tokens(self, limit: int) -> Self:
        """The same model, its processor's budget of pixels set to that of so many tokens."""
        limited = copy(self)
        limited._budget = limit
        limited.processor = copy(self.processor)
        limited.processor.image_processor = processor = copy(self.processor.image_processor)
        most = limit * self._cell**2
        least = min(processor.size["shortest_edge"], most)
        processor.size = type(processor.size)(shortest_edge=least, longest_edge=most)
        return limited

    def pixel_plane(self, pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Put the patches of a visual token, which follow each other, where they belong."""
        vision = self.model.config.vision_config
        merge, patch = vision.spatial_merge_size, vision.patch_size
        patches = pixels.view(*grid, merge, merge, -1, vision.temporal_patch_size, patch, patch)
        # An image is a video of equal frames.
        rows = patches.mean(dim=5).permute(4, 0, 2, 5, 1, 3, 6)
        return rows.reshape(rows.shape[0], grid[0] * merge * patch, grid[1] * merge * patch)

    def frame_crop(self, crop: ImageSegment) -> tuple[Segment, ...]:
        """Frame a crop like an image of its own, by a vision start and a vision end token."""
        config = self.model.config
        return (
            TextSegment((config.vision_start_token_id,)),
            crop,
            TextSegment((config.vision_end_token_id,)),
        )

    def positions(self, prompt: Prompt) -> torch.Tensor:
        """Compute positions in time, row and column, ``(3, length)``.

        An image takes up as many positions as its longer side has cells. Dropped tokens leave gaps,
        so that the positions of the text after them do not change.
        """
        parts, start = [], 0
        for segment in prompt.segments:
            if isinstance(segment, ImageSegment):
                h, w = segment.grid
                rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
                part = torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1)
                if segment.keep is not None:
                    part = part[:, segment.keep.flatten()]
                length = max(h, w)
            else:
                length = len(segment)
                part = torch.arange(length).expand(3, -1)
            parts.append(part + start)
            start += length
        return torch.cat(parts, dim=1)

    def _check_crop(self, image: Image.Image) -> None:
        width, height = image.size
        if min(image.size) < self._cell:
            raise ImageError(
                f"a side of {width}x{height} pixels is shorter than a visual token ({self._cell})"
            )

    @property
    def _cell(self) -> int:
        """Side of a visual token in pixels of the resized image."""
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

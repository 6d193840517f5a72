"""Qwen3-VL on stock ``Qwen3VLForConditionalGeneration``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
"""Visual tokens that the family's own utilities make of any image."""


class Qwen3VLBackbone(Backbone):
    """Images of any shape on a grid of their own; DeepStack features ride behind the embeddings.

    Attributes:
        crops_reuse_positions: place a crop's tokens, between whole positions, where its region
            lies in the image (the published two-stage model) instead of as one more image.
    """

    model_types = ("qwen3_vl",)
    dynamic_resolution = True
    #: Visual tokens that no image may exceed; ``None``: what the processor makes, as published.
    _budget: int | None = None
    crops_reuse_positions = False

    def preprocess(self, image: Image.Image) -> ImageInput:
        """Resize within the processor's budget of pixels, keeping the shape.

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
        vision, merge = self.model.config.vision_config, self.processor.image_processor.merge_size
        rows, columns = (data["image_grid_thw"][0, 1:] // merge).tolist()
        tensors = {name: self.to_model(data[name]) for name in ("pixel_values", "image_grid_thw")}
        return ImageInput(tensors, Resized(image.size, (rows, columns), vision.patch_size * merge))

    def preprocess_native_crop(self, image: Image.Image, limit: int) -> ImageInput:
        """Resize a crop to its native grid.

        Raises:
            ImageError: the processor refuses the shape.
        """
        processor = self.processor.image_processor
        cell = self._cell
        most = min(limit, processor.size["longest_edge"] // cell**2)
        rows, columns = native_grid(image.size, cell, most, least=_LEAST_TOKENS)
        fitted = image.resize((columns * cell, rows * cell), processor.resample)
        item = self.with_visual_tokens(rows * columns).preprocess(fitted)
        return replace(item, geometry=replace(item.geometry, source_size=image.size))

    def image_features(self, inputs: Sequence[ImageInput]) -> list[torch.Tensor]:
        """Projected features, and behind them those for each of the first decoder layers."""
        output = self.model.base_model.get_image_features(**self.collate(inputs))
        levels = zip(output.pooler_output, *output.deepstack_features, strict=True)
        return [torch.cat(parts, dim=-1).to(self.embedding.weight.dtype) for parts in levels]

    @property
    def n_injections(self) -> int:
        """One behind each of the first decoder layers."""
        return len(self.model.config.vision_config.deepstack_visual_indexes)

    @property
    def token_width(self) -> int:
        """The embedding, and what is added to the token's hidden states."""
        return self.hidden_size * (1 + self.n_injections)

    def decoder_inputs(self, rows: torch.Tensor, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """To text, zeros are added."""
        embeds, *injected = rows.split(self.hidden_size, dim=-1)
        everywhere = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        return {
            "inputs_embeds": embeds,
            "visual_pos_masks": everywhere,
            "deepstack_visual_embeds": [level.flatten(0, 1) for level in injected],
        }

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
        """One more image behind the first: what ended that one ends the crop."""
        config = self.model.config
        return (TextSegment((config.vision_end_token_id, config.vision_start_token_id)), crop)

    def positions(self, prompt: Prompt) -> torch.Tensor:
        """Time, row and column ``(3, length)``; an image takes up its longer side."""
        parts, start, source = [], 0, 0
        for segment in prompt.segments:
            if isinstance(segment, TextSegment):
                length = len(segment)
                part = torch.arange(start, start + length).expand(3, -1)
            else:
                h, w = segment.grid
                length = max(h, w)
                rows, columns = start + torch.arange(h), start + torch.arange(w)
                if segment.geometry is not None:
                    source = start
                elif self.crops_reuse_positions and segment.region is not None:
                    x0, y0, x1, y1 = (source + side for side in segment.region)
                    rows, columns = torch.linspace(y0, y1 - 1, h), torch.linspace(x0, x1 - 1, w)
                cells = torch.meshgrid(rows, columns, indexing="ij")
                part = torch.stack([torch.full_like(cells[0], start), *cells]).flatten(1)
                if segment.keep is not None:
                    part = part[:, segment.keep.flatten()]
            parts.append(part)
            start += length
        return torch.cat(parts, dim=1)

    @property
    def _cell(self) -> int:
        """Side of a visual token in pixels of the resized image."""
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.spatial_merge_size)

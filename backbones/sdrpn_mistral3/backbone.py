"""Mistral 3 on stock ``Mistral3ForConditionalGeneration``."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.errors import ImageError
from sdrpn_core.grid.geometry import ResizedWithBreaks
from sdrpn_core.grid.native import native_grid

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Self

    from sdrpn_core.backbone.prompt import ImageSegment


_LEAST_TOKENS = 2
"""Visual tokens, row breaks aside, without which the stock projector fails."""


class Mistral3Backbone(Backbone):
    """Images of any shape on a grid of their own, whose last column holds the row breaks."""

    model_types = ("mistral3",)
    dynamic_resolution = True

    def preprocess(self, image: Image.Image) -> ImageInput:
        """Reduce to the processor's longest edge, and stretch to whole visual tokens.

        Raises:
            ImageError: too thin for the processor, or a single visual token, which the stock
                projector cannot handle.
        """
        cell = self._cell
        described = "an image of {}x{} pixels".format(*image.size)
        try:
            data = self.processor.image_processor(image, patch_size=cell, return_tensors="pt")
        except ValueError as error:
            raise ImageError(f"{described} is refused: {error}") from error
        pixels = self.to_model(data["pixel_values"])
        height, width = pixels.shape[-2:]
        if height == width == cell:
            raise ImageError(f"{described} is a single visual token")
        tensors = {"pixel_values": pixels, "image_sizes": torch.tensor([[height, width]])}
        grid = (height // cell, width // cell + 1)
        return ImageInput(tensors, ResizedWithBreaks(image.size, grid, cell))

    def with_visual_tokens(self, limit: int) -> Self:
        """The same model; a square of so many tokens (row breaks included) bounds the image."""
        limited = copy(self)
        limited.processor = copy(self.processor)
        limited.processor.image_processor = processor = copy(self.processor.image_processor)
        cell = self._cell
        side = max(1, int((limit + 0.25) ** 0.5 - 0.5))  # side * (side + 1) <= limit
        processor.size = type(processor.size)(longest_edge=side * cell)
        return limited

    def preprocess_native_crop(self, image: Image.Image, limit: int) -> ImageInput:
        """Resize a crop to its native grid; row breaks count as visual tokens.

        Raises:
            ImageError: the processor refuses the shape.
        """
        processor, cell = self.processor.image_processor, self._cell
        reduced = min(1.0, processor.size["longest_edge"] / max(image.size))
        width, height = (max(1, int(side * reduced)) for side in image.size)
        rows, columns = native_grid((width, height), cell, limit, least=_LEAST_TOKENS, breaks=1)
        fitted = image.resize((columns * cell, rows * cell), processor.resample)
        item = self.preprocess(fitted)
        return replace(item, geometry=replace(item.geometry, source_size=image.size))

    def collate(self, inputs: Sequence[ImageInput]) -> dict[str, torch.Tensor]:
        """Pixels padded to the largest height and width, as the processor does."""
        pixels = [item.tensors["pixel_values"] for item in inputs]
        sizes = torch.cat([item.tensors["image_sizes"] for item in inputs])
        height, width = sizes.amax(dim=0).tolist()
        padded = [
            F.pad(one, (0, width - one.shape[-1], 0, height - one.shape[-2])) for one in pixels
        ]
        return {"pixel_values": torch.cat(padded), "image_sizes": sizes}

    def image_features(self, inputs: Sequence[ImageInput]) -> list[torch.Tensor]:
        """Projected features, with the embedding of a break behind every row."""
        framed = []
        for features, item in zip(super().image_features(inputs), inputs, strict=True):
            rows, columns = item.geometry.grid
            ids = torch.tensor(self._breaks(rows), device=self.device)
            breaks = self.embedding(ids)[:, None].to(features)
            framed.append(torch.cat([features.view(rows, columns - 1, -1), breaks], dim=1))
        return [rows.flatten(0, 1) for rows in framed]

    def image_ids(self, segment: ImageSegment) -> list[int]:
        """A placeholder per visual token, and breaks."""
        rows, columns = segment.grid
        visual = [self.image_token_id] * (columns - 1)
        ids = [token for end in self._breaks(rows) for token in (*visual, end)]
        if segment.keep is None:
            return ids
        kept = segment.keep.flatten().tolist()
        return [token for token, stays in zip(ids, kept, strict=True) if stays]

    def _breaks(self, rows: int) -> list[int]:
        """What ends each row; the last one ends the image."""
        names = self.processor
        breaks = (names.image_break_token, names.image_end_token)
        row, last = self.tokenizer.convert_tokens_to_ids(list(breaks))
        return [row] * (rows - 1) + [last]

    @property
    def _cell(self) -> int:
        """Side of a visual token in pixels of the resized image."""
        return int(self.processor.patch_size * self.processor.spatial_merge_size)

"""Mistakes in where an image's visual tokens lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.grid.geometry import PaddedSquare, Resized
from sdrpn_llava.backbone import LlavaBackbone
from sdrpn_qwen2_5_vl.backbone import Qwen2_5VLBackbone
from tests.contract.broken.harness import Broken, BrokenQwen


@dataclass(frozen=True)
class OneCellRight(Resized):
    """Everything lies a column further than it says."""

    kind = "one_cell_right"

    def _scale_to_source(self, boxes: Any) -> Any:
        return super()._scale_to_source(boxes + np.float32([1, 0, 1, 0]))


class Shifted(LlavaBackbone):
    def preprocess_crop(self, image: Image.Image) -> ImageInput:
        item = super().preprocess_crop(image)
        return replace(item, geometry=OneCellRight(image.size, item.geometry.grid, cell=14))


class TestShifted(Broken):
    adapter = Shifted
    noticed: ClassVar = {
        "test_the_geometry_covers_the_image": "preprocess_crop: the grid of 4x4 cells covers",
        "test_tokens_of_a_crop_move_where_its_geometry_says": "preprocess_crop: the geometry",
        "test_extreme_crops_are_encoded_or_refused": "preprocess_crop: the grid covers",
    }


class CutToASquare(LlavaBackbone):
    """The middle of the image, as the stock processor does it, called a padded square."""

    def preprocess(self, image: Image.Image) -> ImageInput:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        item = super().preprocess(image.crop((left, top, left + side, top + side)))
        return replace(item, geometry=PaddedSquare(image.size, item.geometry.grid, side=56))


class TestCutToASquare(Broken):
    adapter = CutToASquare
    noticed: ClassVar = {
        "test_pixels_are_the_stock_processors": "preprocess",
        "test_tokens_move_where_the_geometry_says": "preprocess: the geometry",
        "test_a_plane_of_pixels_lies_where_the_geometry_says": "pixel_plane: repainting",
    }


class CropsCalledPadded(LlavaBackbone):
    def preprocess_crop(self, image: Image.Image) -> ImageInput:
        item = super().preprocess_crop(image)
        return replace(item, geometry=PaddedSquare(image.size, item.geometry.grid, side=56))


class TestCropsCalledPadded(Broken):
    adapter = CropsCalledPadded
    noticed: ClassVar = {
        "test_tokens_of_a_crop_move_where_its_geometry_says": "preprocess_crop: the geometry"
    }


class GridTransposed(Qwen2_5VLBackbone):
    def preprocess(self, image: Image.Image) -> ImageInput:
        item = super().preprocess(image)
        return replace(item, geometry=Resized(image.size, item.geometry.grid[::-1], cell=28))


class TestGridTransposed(BrokenQwen):
    adapter = GridTransposed
    noticed: ClassVar = {
        "test_logits_with_crops_equal_the_stock_forward": r"frame_crop \(or image_features",
        "test_answers_follow_the_generation_config": "image_ids",
        "test_tokens_move_where_the_geometry_says": "preprocess: the geometry",
        "test_tokens_of_a_crop_move_where_its_geometry_says": "preprocess_crop: the geometry",
        "test_logits_equal_the_stock_forward": "positions",
        "test_a_plane_of_pixels_lies_where_the_geometry_says": "pixel_plane",
    }


class ColumnMajor(LlavaBackbone):
    def image_features(self, inputs: Any) -> list[torch.Tensor]:
        return [
            features.unflatten(0, item.geometry.grid).transpose(0, 1).flatten(0, 1)
            for features, item in zip(super().image_features(inputs), inputs, strict=True)
        ]


class TestColumnMajor(Broken):
    adapter = ColumnMajor
    noticed: ClassVar = {
        "test_logits_with_crops_equal_the_stock_forward": r"frame_crop \(or image_features",
        "test_answers_follow_the_generation_config": "image_ids",
        "test_tokens_move_where_the_geometry_says": "not row-major",
        "test_tokens_of_a_crop_move_where_its_geometry_says": "not row-major",
        "test_logits_equal_the_stock_forward": "image_features",
    }


class PatchesInRows(Qwen2_5VLBackbone):
    """Patches put down row by row, although those of a visual token follow each other."""

    def pixel_plane(self, pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        vision = self.model.config.vision_config
        merge, patch = vision.spatial_merge_size, vision.patch_size
        rows, columns = grid[0] * merge, grid[1] * merge
        patches = pixels.view(rows, columns, -1, vision.temporal_patch_size, patch, patch)
        plane = patches.mean(dim=3).permute(2, 0, 3, 1, 4)
        return plane.reshape(-1, rows * patch, columns * patch)


class TestPatchesInRows(BrokenQwen):
    adapter = PatchesInRows
    noticed: ClassVar = {
        "test_a_plane_of_pixels_lies_where_the_geometry_says": "pixel_plane: repainting"
    }

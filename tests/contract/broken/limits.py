"""Mistakes at the limits of image sizes, and in dtypes and devices."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from PIL import Image

from sdrpn_core.backbone.question import ImageInput
from sdrpn_llava.backbone import LlavaBackbone
from sdrpn_qwen2_5_vl.backbone import Qwen2_5VLBackbone
from tests.contract.broken.harness import Broken, BrokenQwen
from tests.tiny_qwen2_5_vl import tiny_qwen2_5_vl


def _refuse(image: Image.Image) -> None:
    if min(image.size) < 3:
        raise ValueError("height and width must be at least 3")


class RawRefusal(LlavaBackbone):
    def preprocess(self, image: Image.Image) -> ImageInput:
        _refuse(image)
        return super().preprocess(image)


class TestRawRefusal(Broken):
    adapter = RawRefusal
    noticed: ClassVar = {
        "test_extreme_images_are_encoded_or_refused": "preprocess: .* raises ValueError"
    }


class RawRefusalOfCrops(LlavaBackbone):
    def preprocess_crop(self, image: Image.Image) -> ImageInput:
        _refuse(image)
        return super().preprocess_crop(image)


class TestRawRefusalOfCrops(Broken):
    adapter = RawRefusalOfCrops
    noticed: ClassVar = {
        "test_extreme_crops_are_encoded_or_refused": "preprocess_crop: .* raises ValueError",
        "test_a_region_too_small_to_encode_leaves_the_plain_answer": "at least 3",
    }


class Enlarged(Qwen2_5VLBackbone):
    """Crops beyond the processor's budget of pixels."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        processor = tiny_qwen2_5_vl(max_pixels=100 * 28**2).processor
        self.roomy = Qwen2_5VLBackbone(self.model, processor)

    def preprocess_crop(self, image: Image.Image) -> ImageInput:
        return self.roomy.preprocess_crop(image)


class TestEnlarged(BrokenQwen):
    adapter = Enlarged
    noticed: ClassVar = {
        "test_visual_tokens_stay_within_the_limits": "preprocess_crop: .* 8x12 visual tokens"
    }


class Extravagant(Qwen2_5VLBackbone):
    """Crops as fine as ever, whatever the budget."""

    def preprocess_native_crop(self, image: Image.Image, limit: int) -> ImageInput:
        return self.preprocess_crop(image)


class TestExtravagant(BrokenQwen):
    adapter = Extravagant
    noticed: ClassVar = {
        "test_budgets_of_visual_tokens_are_kept_or_refused": "preprocess_native_crop: an image of"
    }


class UnspokenBudgets(LlavaBackbone):
    """Takes budgets, of which its class says nothing."""

    def with_visual_tokens(self, limit: int) -> UnspokenBudgets:
        return self


class TestUnspokenBudgets(Broken):
    adapter = UnspokenBudgets
    noticed: ClassVar = {
        "test_budgets_of_visual_tokens_are_kept_or_refused": "with_visual_tokens: takes a budget"
    }


class DoublePrecision(LlavaBackbone):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.model.double()


class TestDoublePrecision(Broken):
    adapter = DoublePrecision
    noticed: ClassVar = {"test_it_runs_in_float32_on_the_cpu": "make: the model is torch.float64"}


class ReadsWeights(LlavaBackbone):
    def preprocess(self, image: Image.Image) -> ImageInput:
        assert self.embedding.weight.ndim == 2
        return super().preprocess(image)


class TestReadsWeights(Broken):
    adapter = ReadsWeights
    noticed: ClassVar = {
        "test_images_are_prepared_without_the_weights": "preprocess: of the model, only config"
    }


class PixelsAsTheyCome(LlavaBackbone):
    def to_model(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


class TestPixelsAsTheyCome(Broken):
    adapter = PixelsAsTheyCome
    noticed: ClassVar = {
        "test_inputs_follow_the_model": r"preprocess: \['pixel_values'\] are not in the model's"
    }

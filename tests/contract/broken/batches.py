"""Mistakes that show where a prefix is reused, or sequences share a batch."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from sdrpn_core.backbone.prompt import ImageSegment, TextSegment
from sdrpn_llava.backbone import LlavaBackbone
from tests.contract.broken.harness import Broken


class FrameWithoutCrop(LlavaBackbone):
    def frame_crop(self, crop: ImageSegment) -> tuple[TextSegment, ...]:
        return (TextSegment((5,)), TextSegment((6,)))


class TestFrameWithoutCrop(Broken):
    adapter = FrameWithoutCrop
    noticed: ClassVar = {
        "test_crops_are_framed_like_images": "frame_crop: ",
        "test_logits_with_crops_equal_the_stock_forward": "frame_crop: ",
        "test_answers_follow_the_generation_config": "frame_crop: ",
        "test_a_framed_crop_holds_the_crop": "frame_crop: must return the crop",
    }


class FrameWithPlaceholder(LlavaBackbone):
    def frame_crop(self, crop: ImageSegment) -> tuple[Any, ...]:
        return (TextSegment((self.image_token_id,)), crop)


class TestFrameWithPlaceholder(Broken):
    adapter = FrameWithPlaceholder
    noticed: ClassVar = {
        "test_crops_are_framed_like_images": "frame_crop: ",
        "test_logits_with_crops_equal_the_stock_forward": "frame_crop: ",
        "test_answers_follow_the_generation_config": "frame_crop: ",
        "test_a_framed_crop_holds_the_crop": "frame_crop: .* placeholder",
    }


class LooksAhead(LlavaBackbone):
    """A decoder layer that is not causal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        layer = self.decoder.layers[-1].mlp
        layer.register_forward_hook(lambda _, args, out: out + out.mean(dim=1, keepdim=True))


class TestLooksAhead(Broken):
    adapter = LooksAhead
    noticed: ClassVar = {
        "test_logits_on_a_reused_prefix_equal_those_without": "positions: logits behind",
        "test_an_answer_on_a_reused_prefix_equals_recomputation": "may depend on what follows",
    }


class SortedBySize(LlavaBackbone):
    def image_features(self, inputs: Any) -> list[torch.Tensor]:
        return super().image_features(sorted(inputs, key=lambda item: item.geometry.source_size))


class TestSortedBySize(Broken):
    adapter = SortedBySize
    noticed: ClassVar = {
        "test_answers_follow_the_generation_config": "image_ids",
        "test_images_encoded_together_equal_those_alone": "image_features: image 0",
        "test_a_batch_of_answers_equals_one_by_one": "image_features or positions",
        "test_logits_equal_the_stock_forward": "image_features",
    }

"""Mistakes in position ids."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch

from sdrpn_core.backbone.prompt import ImageSegment, Prompt
from sdrpn_llava.backbone import LlavaBackbone
from sdrpn_qwen2_5_vl.backbone import Qwen2_5VLBackbone
from tests.contract.broken.harness import Broken, BrokenQwen


class GapBehindImages(LlavaBackbone):
    def positions(self, prompt: Prompt) -> torch.Tensor:
        positions = super().positions(prompt)
        for _, stop in prompt.image_spans:
            positions[stop:] += 1
        return positions


class TestGapBehindImages(Broken):
    adapter = GapBehindImages
    noticed: ClassVar = {
        "test_logits_with_crops_equal_the_stock_forward": r"frame_crop \(or image_features",
        "test_answers_follow_the_generation_config": "image_ids",
        "test_logits_equal_the_stock_forward": "positions .* stock forward",
    }


class TextStartsAgain(LlavaBackbone):
    def positions(self, prompt: Prompt) -> torch.Tensor:
        return torch.cat([torch.arange(len(segment)) for segment in prompt.segments])


class TestTextStartsAgain(Broken):
    adapter = TextStartsAgain
    noticed: ClassVar = {
        "test_logits_with_crops_equal_the_stock_forward": r"frame_crop \(or image_features",
        "test_answers_follow_the_generation_config": "image_ids",
        "test_logits_equal_the_stock_forward": "positions",
        "test_positions_advance": "positions: a segment",
    }


class CountedFromTheEnd(LlavaBackbone):
    def positions(self, prompt: Prompt) -> torch.Tensor:
        return super().positions(prompt) + 256 - len(prompt)


class TestCountedFromTheEnd(Broken):
    adapter = CountedFromTheEnd
    noticed: ClassVar = {
        "test_answers_follow_the_generation_config": "image_ids",
        "test_a_crop_leaves_the_positions_before_it": "positions: those up to an image's end",
        "test_logits_on_a_reused_prefix_equal_those_without": "positions: logits behind",
        "test_an_answer_on_a_reused_prefix_equals_recomputation": "frame_crop or positions",
    }


class NoGapsWhereTokensWereDropped(Qwen2_5VLBackbone):
    """A pruned image is placed like a row of what is left of it."""

    def positions(self, prompt: Prompt) -> torch.Tensor:
        segments = tuple(
            replace(segment, grid=(1, len(segment)), keep=None)
            if isinstance(segment, ImageSegment) and segment.keep is not None
            else segment
            for segment in prompt.segments
        )
        return super().positions(replace(prompt, segments=segments))


class TestNoGapsWhereTokensWereDropped(BrokenQwen):
    adapter = NoGapsWhereTokensWereDropped
    noticed: ClassVar = {
        "test_dropped_tokens_leave_the_others_in_place": "positions: the kept tokens"
    }


class OneAxis(Qwen2_5VLBackbone):
    def positions(self, prompt: Prompt) -> torch.Tensor:
        return torch.arange(len(prompt)).expand(3, -1)


class TestOneAxis(BrokenQwen):
    adapter = OneAxis
    noticed: ClassVar = {
        "test_logits_with_crops_equal_the_stock_forward": r"frame_crop \(or image_features",
        "test_answers_follow_the_generation_config": "image_ids",
        "test_logits_equal_the_stock_forward": "positions",
        "test_dropped_tokens_leave_the_others_in_place": "positions: the kept tokens",
    }

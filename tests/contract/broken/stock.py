"""Differences from the stock model and its processor: prompts, pixels, frames, masks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from PIL import Image

from sdrpn_core.backbone.prompt import ImageSegment, Prompt, TextSegment
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.testing.subject import ContractSubject
from sdrpn_gemma3.backbone import Gemma3Backbone
from sdrpn_llava.backbone import LlavaBackbone
from sdrpn_mistral3.backbone import Mistral3Backbone
from sdrpn_qwen2_5_vl.backbone import Qwen2_5VLBackbone
from sdrpn_qwen3_vl.backbone import Qwen3VLBackbone
from tests.contract.broken.harness import Broken, BrokenQwen
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_mistral3 import CELL as MISTRAL_CELL
from tests.tiny_mistral3 import tiny_mistral3
from tests.tiny_qwen2_5_vl import MAX_TOKENS, MIN_TOKENS
from tests.tiny_qwen3_vl import tiny_qwen3_vl


class NoEndOfTurn(Qwen2_5VLBackbone):
    def chat_text(self, question: str, n_images: int) -> str:
        return super().chat_text(question, n_images).replace(f"{question}<|im_end|>", question)


class TestNoEndOfTurn(BrokenQwen):
    adapter = NoEndOfTurn
    noticed: ClassVar = {
        "test_prompts_are_the_stock_processors": "chat_text: a prompt",
    }


class ImageBehindQuestion(Qwen2_5VLBackbone):
    def chat_text(self, question: str, n_images: int) -> str:
        framed = "<|vision_start|><|image_pad|><|vision_end|>" * n_images
        text = super().chat_text(question, n_images)
        return text.replace(f"{framed}{question}", f"{question}{framed}")


class TestImageBehindQuestion(BrokenQwen):
    adapter = ImageBehindQuestion
    noticed: ClassVar = {
        "test_prompts_are_the_stock_processors": "chat_text: a prompt",
    }


class NoFrame(Qwen2_5VLBackbone):
    def chat_text(self, question: str, n_images: int) -> str:
        return super().chat_text(question, n_images).replace("<|vision_start|>", "")


class TestNoFrame(BrokenQwen):
    adapter = NoFrame
    noticed: ClassVar = {
        "test_prompts_are_the_stock_processors": "chat_text: a prompt",
    }


class ChannelsReversed(LlavaBackbone):
    def preprocess(self, image: Image.Image) -> ImageInput:
        return super().preprocess(Image.merge("RGB", image.split()[::-1]))


class TestChannelsReversed(Broken):
    adapter = ChannelsReversed
    noticed: ClassVar = {
        "test_pixels_are_the_stock_processors": "preprocess",
    }


class NotNormalized(LlavaBackbone):
    def preprocess_crop(self, image: Image.Image) -> ImageInput:
        item = super().preprocess_crop(image)
        return replace(item, tensors={"pixel_values": 2 * item.tensors["pixel_values"] - 1})


class TestNotNormalized(Broken):
    adapter = NotNormalized
    noticed: ClassVar = {
        "test_pixels_are_the_stock_processors": "preprocess",
    }


class OddFrame(Qwen2_5VLBackbone):
    def frame_crop(self, crop: ImageSegment) -> tuple[Any, ...]:
        return (TextSegment((21, 22)), *super().frame_crop(crop))


class TestOddFrame(BrokenQwen):
    adapter = OddFrame
    noticed: ClassVar = {
        "test_crops_are_framed_like_images": "frame_crop: ",
    }


class GapBehindCrops(LlavaBackbone):
    def positions(self, prompt: Prompt) -> torch.Tensor:
        positions, start = super().positions(prompt), 0
        for segment in prompt.segments:
            start += len(segment)
            if isinstance(segment, ImageSegment) and segment.geometry is None:
                positions[start:] += 3
        return positions


class TestGapBehindCrops(Broken):
    adapter = GapBehindCrops
    noticed: ClassVar = {
        "test_logits_with_crops_equal_the_stock_forward": r"frame_crop \(or image_features",
        "test_answers_follow_the_generation_config": "image_ids",
    }


class CropsWithoutInjections(Qwen3VLBackbone):
    """The DeepStack features of crops are forgotten."""

    def preprocess_crop(self, image: Image.Image) -> ImageInput:
        item = super().preprocess_crop(image)
        self.crops = getattr(self, "crops", [])
        self.crops.append(item)
        return item

    def image_features(self, inputs: Any) -> list[torch.Tensor]:
        rows = super().image_features(inputs)
        for item, row in zip(inputs, rows, strict=True):
            if any(item is crop for crop in getattr(self, "crops", [])):
                row[:, self.hidden_size :] = 0
        return rows


class BrokenQwen3(Broken):
    healthy = staticmethod(tiny_qwen3_vl)
    min_visual_tokens = MIN_TOKENS
    max_visual_tokens = MAX_TOKENS
    system_message = None
    stock_image = ContractSubject.stock_image
    crop_frame = ContractSubject.crop_frame


class TestCropsWithoutInjections(BrokenQwen3):
    adapter = CropsWithoutInjections
    noticed: ClassVar = {
        "test_logits_with_crops_equal_the_stock_forward": r"frame_crop \(or image_features",
        "test_answers_follow_the_generation_config": "image_ids",
    }


class InjectsSilently(Qwen3VLBackbone):
    """Says nothing of the features that are added between layers."""

    n_injections = 0
    token_width = 3 * 64


class TestInjectsSilently(BrokenQwen3):
    adapter = InjectsSilently
    branch = 1
    noticed: ClassVar = {
        "test_a_new_trunk_computes_the_decoders_states": "n_injections or layers",
    }


class OtherIds(LlavaBackbone):
    """Says that the first token of a prompt is another one."""

    def token_ids(self, prompt: Prompt) -> list[int]:
        ids = super().token_ids(prompt)
        return [*ids[1:2], *ids[:1], *ids[2:]]


class TestOtherIds(Broken):
    adapter = OtherIds
    noticed: ClassVar = {
        "test_prompts_are_the_stock_processors": "chat_text: a prompt",
        "test_logits_with_crops_equal_the_stock_forward": r"frame_crop \(or image_features",
        "test_answers_follow_the_generation_config": "image_ids",
        "test_logits_equal_the_stock_forward": "positions",
    }


class IgnoresWindows(Mistral3Backbone):
    has_windows = False


class BrokenMistral(Broken):
    healthy = staticmethod(tiny_mistral3)
    system_message = None
    stock_image = ContractSubject.stock_image
    stock_options: ClassVar = {"patch_size": MISTRAL_CELL}
    crop_frame = ContractSubject.crop_frame


class TestIgnoresWindows(BrokenMistral):
    adapter = IgnoresWindows
    noticed: ClassVar = {
        "test_windows_are_shorter_than_prompts": "has_windows: ",
        "test_logits_on_a_reused_prefix_equal_those_without": "positions: logits behind",
    }


class TestWideWindows(BrokenMistral):
    adapter = Mistral3Backbone
    healthy = staticmethod(partial(tiny_mistral3, window=512))
    noticed: ClassVar = {
        "test_windows_are_shorter_than_prompts": "make: the decoder attends",
    }


class CausalImages(Gemma3Backbone):
    """Forgets that an image's tokens attend to each other."""

    def decoder_inputs(self, rows: Any, inputs: Any) -> dict[str, Any]:
        return {"inputs_embeds": rows[..., :-1]}


class TestCausalImages(BrokenMistral):
    adapter = CausalImages
    healthy = staticmethod(tiny_gemma3)
    stock_options: ClassVar = {"do_pan_and_scan": False}
    noticed: ClassVar = {
        "test_logits_with_crops_equal_the_stock_forward": r"frame_crop \(or image_features",
        "test_answers_follow_the_generation_config": "image_ids",
        "test_logits_equal_the_stock_forward": "positions",
    }


class BareCrop(Gemma3Backbone):
    """Image and crop are one block to the stock model."""

    def frame_crop(self, crop: ImageSegment) -> tuple[Any, ...]:
        return (crop,)


class TestBareCrop(TestCausalImages):
    adapter = BareCrop
    noticed: ClassVar = {
        "test_an_answer_on_a_reused_prefix_equals_recomputation": "frame_crop or positions",
        "test_crops_are_framed_like_images": "frame_crop: ",
        "test_answers_follow_the_generation_config": "image_ids",
    }

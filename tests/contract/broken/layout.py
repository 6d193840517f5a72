"""Mistakes in what a prompt consists of: its text, its images, and the order of these."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from PIL import Image

from sdrpn_core.backbone.prompt import Prompt
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.grid.geometry import Resized
from sdrpn_llava.backbone import LlavaBackbone
from tests.contract.broken.harness import Broken


class TestHealthy(Broken):
    """The harness itself breaks nothing."""

    adapter = LlavaBackbone
    noticed: ClassVar = {}


class OtherType(LlavaBackbone):
    model_types = ("llava_next",)


class TestOtherType(Broken):
    adapter = OtherType
    noticed: ClassVar = {
        "test_model_types_lead_to_the_adapter": "model_types: .* lacks the model's own type 'llava'"
    }


class TestUnregistered(Broken):
    adapter = LlavaBackbone
    noticed: ClassVar = {
        "test_model_types_lead_to_the_adapter": "sdrpn_register_backbones: 'llava' does not lead"
    }

    @classmethod
    def register(cls, registry: Any) -> None:
        pass


class Thawed(LlavaBackbone):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.model.requires_grad_(True)


class TestThawed(Broken):
    adapter = Thawed
    noticed: ClassVar = {"test_the_model_is_frozen": "__init__: .* parameters require gradients"}


class OneRowTooMany(LlavaBackbone):
    def preprocess(self, image: Image.Image) -> ImageInput:
        item = super().preprocess(image)
        h, w = item.geometry.grid
        return replace(item, geometry=Resized(image.size, (h + 1, w), cell=14))


class TestOneRowTooMany(Broken):
    adapter = OneRowTooMany
    noticed: ClassVar = dict.fromkeys(
        (
            "test_an_image_has_one_token_per_cell",
            "test_the_geometry_covers_the_image",
            "test_tokens_move_where_the_geometry_says",
            "test_positions_advance",
            "test_a_crop_leaves_the_positions_before_it",
            "test_dropped_tokens_leave_the_others_in_place",
            "test_images_encoded_together_equal_those_alone",
            "test_extreme_images_are_encoded_or_refused",
            "test_visual_tokens_stay_within_the_limits",
        ),
        r"preprocess: the geometry's grid \(5, 4\) asks for",
    ) | {"test_a_plane_of_pixels_lies_where_the_geometry_says": "pixel_plane: repainting"}


class ImagesReversed(LlavaBackbone):
    def encode_ids(self, ids: Any, questions: Any) -> list[Prompt]:
        return super().encode_ids(ids, [replace(q, images=q.images[::-1]) for q in questions])


class TestImagesReversed(Broken):
    adapter = ImagesReversed
    noticed: ClassVar = {
        "test_logits_with_crops_equal_the_stock_forward": r"frame_crop \(or image_features",
        "test_answers_follow_the_generation_config": "image_ids",
        "test_prompts_hold_their_images_in_order": "chat_text: a question about",
        "test_logits_equal_the_stock_forward": "2 images",
    }


class NoGenerationPrompt(LlavaBackbone):
    def chat_text(self, question: str, n_images: int) -> str:
        return super().chat_text(question, n_images).removesuffix(" ASSISTANT:")


class TestNoGenerationPrompt(Broken):
    adapter = NoGenerationPrompt
    noticed: ClassVar = {
        "test_prompts_are_the_stock_processors": "chat_text: a prompt",
        "test_the_prompt_ends_where_the_response_begins": "chat_text: .*add_generation_prompt",
    }


class QueryInTheResponse(LlavaBackbone):
    def encode(self, questions: Any) -> list[Prompt]:
        return [
            replace(prompt, response_length=max(prompt.response_length - 1, 0))
            for prompt in super().encode(questions)
        ]


class TestQueryInTheResponse(Broken):
    adapter = QueryInTheResponse
    noticed: ClassVar = {"test_a_response_follows_its_prompt": "encode: .* count as the response"}


class Unguarded(LlavaBackbone):
    def tokenize(self, question: str, n_images: int, *, special_tokens: bool = False) -> list[int]:
        return list(self.tokenizer(self.chat_text(question, n_images)).input_ids)


class TestUnguarded(Broken):
    adapter = Unguarded
    noticed: ClassVar = {"test_a_question_cannot_smuggle_an_image_in": "tokenize: "}

"""Adapters with one mistake each, and the checks of the contract that must notice it.

``test_broken_adapters.py`` runs this file. By itself it is not collected: most of it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

import sdrpn_core.plugins.manager
from sdrpn_core.backbone.adapter import Backbone, ImageInput, Question
from sdrpn_core.backbone.preset import Preset
from sdrpn_core.backbone.prompt import ImageSegment, Prompt, TextSegment
from sdrpn_core.errors import CORE_PLUGIN
from sdrpn_core.grid.geometry import PaddedSquare, Resized
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.plugins.hookspecs import hookimpl
from sdrpn_core.plugins.manager import ENTRY_POINT_GROUP, Plugins
from sdrpn_core.testing import BackboneContract
from sdrpn_core.testing.subject import ContractSubject
from sdrpn_gemma3.backbone import Gemma3Backbone
from sdrpn_llava.backbone import LlavaBackbone
from sdrpn_mistral3.backbone import Mistral3Backbone
from sdrpn_qwen2_5_vl.backbone import Qwen2_5VLBackbone
from sdrpn_qwen3_vl.backbone import Qwen3VLBackbone
from tests.contract.subjects import LlavaSubject, between_vision_tokens
from tests.tiny import CHAT_TEMPLATE, tiny_llava
from tests.tiny_gemma3 import tiny_gemma3
from tests.tiny_mistral3 import CELL as MISTRAL_CELL
from tests.tiny_mistral3 import tiny_mistral3
from tests.tiny_qwen2_5_vl import MAX_TOKENS, MIN_TOKENS, tiny_qwen2_5_vl
from tests.tiny_qwen3_vl import tiny_qwen3_vl


class Broken(LlavaSubject, BackboneContract):
    """A contract that an adapter breaks.

    Attributes:
        adapter: the adapter; no other one is registered.
        healthy: a tiny model whose own adapter it replaces.
        presets: registered beside it.
        noticed: ``{check: part of its message}`` of every check that must fail, and no other may.
    """

    adapter: ClassVar[type[Backbone]]
    healthy: ClassVar[Callable[..., Backbone]] = staticmethod(
        partial(tiny_llava, chat_template=CHAT_TEMPLATE)
    )
    presets: ClassVar[tuple[Preset, ...]] = ()
    noticed: ClassVar[Mapping[str, str]]
    sizes = ((240, 160), (80, 240))

    @classmethod
    def questions(cls) -> list[Question]:
        """One with an image less, to save time: a mistake shows in those that are left."""
        first, _, *others = super().questions()
        return [first, *others]

    @classmethod
    def make(cls, **options: Any) -> Backbone:
        healthy = cls.healthy(**options)
        healthy.decoder._forward_pre_hooks.clear()  # the healthy adapter's
        return cls.adapter(healthy.model, healthy.processor, name=healthy.name)

    @classmethod
    def register(cls, registry: Any) -> None:
        registry.add("broken", cls.adapter, model_types=cls.adapter.model_types)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _alone(cls) -> Iterator[None]:
        @hookimpl
        def sdrpn_register_backbones(registry: Any) -> None:
            cls.register(registry)

        @hookimpl
        def sdrpn_register_presets(registry: Any) -> None:
            for preset in cls.presets:
                registry.add(preset.name, preset, model_types=cls.adapter.model_types)

        module = ModuleType("broken")
        module.SDRPN_API = 1
        module.sdrpn_register_backbones = sdrpn_register_backbones
        module.sdrpn_register_presets = sdrpn_register_presets
        plugins = Plugins()
        plugins.load(entry_points(group=ENTRY_POINT_GROUP, name=CORE_PLUGIN))
        plugins.register(module, "broken")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sdrpn_core.plugins.manager, "_plugins", plugins)
            yield


class BrokenQwen(Broken):
    healthy = staticmethod(tiny_qwen2_5_vl)
    system_message = None
    stock_image = ContractSubject.stock_image
    crop_frame = staticmethod(between_vision_tokens)
    min_visual_tokens = MIN_TOKENS
    max_visual_tokens = MAX_TOKENS


class TestHealthy(Broken):
    """The harness itself breaks nothing."""

    adapter = LlavaBackbone
    noticed: ClassVar = {}


# -- layout ------------------------------------------------------------


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
    )


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


# -- geometry ------------------------------------------------------------


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


# -- positions ------------------------------------------------------------


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


# -- the stock classes ------------------------------------------------------------


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


# -- taps ------------------------------------------------------------


class ScalesStates(LlavaBackbone):
    """A hook of its own in front of a decoder layer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.decoder.layers[2].register_forward_pre_hook(lambda _, states: (2 * states[0],))


class TestScalesStates(Broken):
    adapter = ScalesStates
    noticed: ClassVar = {
        "test_a_new_trunk_computes_the_decoders_states": "n_injections or layers",
        "test_tapped_features_equal_hidden_states": "decoder: the states tapped",
    }


class LayersReversed(LlavaBackbone):
    @property
    def layers(self) -> torch.nn.ModuleList:
        return torch.nn.ModuleList(reversed(super().layers))


class TestLayersReversed(Broken):
    adapter = LayersReversed
    noticed: ClassVar = {
        "test_a_new_trunk_computes_the_decoders_states": "n_injections or layers",
        "test_early_stop_runs_no_layer_from_the_branch_on": r"decoder: .* the layers \[5, 4\] ran",
    }


class TestAlwaysSdpa(Broken):
    adapter = LlavaBackbone
    noticed: ClassVar = {"test_tapped_attention_equals_eager": "make: asked for .*'eager'"}

    @classmethod
    def make(cls, attn_implementation: str = "sdpa") -> Backbone:
        return tiny_llava(chat_template=CHAT_TEMPLATE)


# -- prefix and batches ------------------------------------------------------------


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


# -- RPN and presets ------------------------------------------------------------


class Detached(LlavaBackbone):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for layer in self.decoder.layers:
            layer.input_layernorm.register_forward_hook(lambda *args: args[-1].detach())


class TestDetached(Broken):
    adapter = Detached
    noticed: ClassVar = {"test_an_rpn_trains_saves_and_loads": "layers: no gradient reaches"}


class FirstModelForAll(LlavaBackbone):
    """Parts of the first model, kept on the class."""

    first: ClassVar[Backbone | None] = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if FirstModelForAll.first is None:
            FirstModelForAll.first = LlavaBackbone(self.model, self.processor)

    @property
    def layers(self) -> torch.nn.ModuleList:
        return FirstModelForAll.first.layers

    @property
    def embedding(self) -> torch.nn.Embedding:
        return FirstModelForAll.first.embedding


class TestFirstModelForAll(Broken):
    adapter = FirstModelForAll
    noticed: ClassVar = {"test_an_rpn_of_another_backbone_is_refused": "layers or embedding: "}


def preset(name: str, head: int = 0, **match: Any) -> Preset:
    return Preset(
        name=name,
        match={"model_type": "llava", **match},
        branch=2,
        n_layers=2,
        recipes={"natural": LabelRecipe(grounding={3: (head,)})},
    )


class TestMissingHead(Broken):
    adapter = LlavaBackbone
    presets = (preset("mine", head=4),)
    noticed: ClassVar = {
        "test_presets_name_what_exists": "sdrpn_register_presets: 'mine' .* head 4"
    }


class TestMissingLayer(Broken):
    adapter = LlavaBackbone
    presets = (preset("mine", **{"text_config.num_hidden_layers": 3}),)
    noticed: ClassVar = {"test_presets_name_what_exists": "sdrpn_register_presets: 'mine' .*layer"}


class TestUnknownHeadOption(Broken):
    adapter = LlavaBackbone
    presets = (replace(preset("mine"), rpn={"head": "conv", "head_options": {"rope": True}}),)
    noticed: ClassVar = {
        "test_presets_name_what_exists": r"sdrpn_register_presets: 'mine' sets \['rope'\]"
    }


class TestTwoPresetsForOneModel(Broken):
    adapter = LlavaBackbone
    presets = (preset("small"), preset("wide", **{"text_config.hidden_size": 128}))
    noticed: ClassVar = {
        "test_presets_tell_models_apart": "sdrpn_register_presets: .* both 'small' and 'wide'"
    }


# -- limits and devices ------------------------------------------------------------


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

"""The golden LLaVA through the public core."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, LlavaForConditionalGeneration

from sdrpn_core import RPN, RPNConfig, open_image
from sdrpn_core.backbone.question import ImageInput, Question
from sdrpn_core.rpn.checkpoint import assign_rpn_weights
from sdrpn_llava.backbone import LlavaBackbone
from tests.golden.runs import IdProcessor, rpn_name

#: README: logits of the plain model, and of the two-stage answer.
PLAIN_LOGITS = 1e-4
LOGITS = 1e-3


class BlackCropLlava(LlavaBackbone):
    """The published defect: a crop without pixels becomes a black image.

    An answer's crops have pixels: those of no width or height come as lines of one pixel.
    """

    def preprocess_crop(self, image: Image.Image) -> ImageInput:
        return super().preprocess_crop(image if min(image.size) > 1 else Image.new("RGB", (1, 1)))


def load_llava(folder: Path, attn_implementation: str) -> LlavaBackbone:
    """The golden base model."""
    model = LlavaForConditionalGeneration.from_pretrained(
        folder / "base_hf", attn_implementation=attn_implementation
    )
    side = model.config.vision_config.image_size
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    return LlavaBackbone(model, IdProcessor(image_processor, model.config.image_token_id))


def golden_rpn(folder: Path, backbone: LlavaBackbone, **overrides: Any) -> RPN:
    """The golden branch as an RPN; ``overrides`` are fields of its configuration."""
    published = json.loads((folder / "twig/twig_config.json").read_text())
    options = {
        "rope": False,
        "multi_head": published["multi_head"],
        **overrides.pop("head_options", {}),
    }
    config = RPNConfig(
        **{
            "branch": published["K"],
            "n_layers": published["T"],
            "head_options": options,
            "final_norm": published["norm_before_scoring"],
            "loss": published["loss"],
            **overrides,
        }
    )
    rpn = RPN.from_backbone(backbone, config)
    tensors = load_file(folder / "twig/twig.safetensors")
    names = {name: rpn_name(published["T"], name) for name in tensors}
    kept = {new: tensors[name] for name, new in names.items() if new is not None}
    assign_rpn_weights(rpn, kept, "twig.safetensors")
    return rpn


def sample_file(folder: Path, index: Any) -> Path:
    """The sample of this number, to which other files refer; a set without it skips the test."""
    file = folder / f"samples/sample_{int(index):02d}.npz"
    if not file.is_file():
        pytest.skip(f"this set has no sample {int(index)}")
    return file


def question_of(folder: Path, sample: Mapping[str, Any]) -> Question:
    """A golden sample as a question."""
    image = open_image(folder / f"images/img_{int(sample['image_index']):02d}.png")
    return Question(" ".join(map(str, sample["input_ids"].tolist())), (image,))


def block_means(pixels: torch.Tensor, patch: int) -> np.ndarray:
    """Mean of ``(channels, side, side)`` over each patch."""
    tiles = pixels.unfold(1, patch, patch).unfold(2, patch, patch)
    return tiles.mean(dim=(3, 4)).numpy()

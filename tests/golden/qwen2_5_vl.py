"""The golden Qwen2.5-VL through the public core."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

from sdrpn_core import RPN, RPNConfig, open_image
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.rpn.checkpoint import assign_rpn_weights
from sdrpn_qwen2_5_vl.backbone import Qwen2_5VLBackbone
from sdrpn_qwen2_5_vl.presets import HIGH_RESOLUTION
from tests.golden.runs import IdProcessor, rpn_name

#: README, tolerances.
EMBEDDINGS = 1e-5
LOGITS = 1e-4
STATES = 1e-4
MAPS = 1e-4
BLURRED = 1e-5


@dataclass(frozen=True)
class Case:
    """One golden image and question.

    Attributes:
        name: as in ``cases.json``.
        settings: what ``cases.json`` says about it.
        data: its arrays.
        backbone: the golden model with the case's budget of pixels.
        question: the prompt, and the image.
    """

    name: str
    settings: Mapping[str, Any]
    data: Mapping[str, np.ndarray]
    backbone: Qwen2_5VLBackbone
    question: Question

    def thresholds(self) -> Iterator[tuple[MaskPolicy, str, dict[str, np.ndarray]]]:
        """Per published threshold the policy, how the run ended, and its arrays."""
        if not self.settings["thresholds"]:
            pytest.skip(f"case {self.name} has no threshold")
        for tag, run in self.settings["thresholds"].items():
            arrays = {k[len(tag) + 1 :]: v for k, v in self.data.items() if k.startswith(f"{tag}_")}
            yield published_policy(int(tag[1:]) / 100), run["status"], arrays


def published_policy(threshold: float) -> MaskPolicy:
    """The settings of the published evaluation."""
    return MaskPolicy(threshold=threshold, min_regions=1, prune_rule="published", **HIGH_RESOLUTION)


def load_qwen(
    folder: Path, attn_implementation: str, checkpoint: str = "model_hf"
) -> Qwen2_5_VLForConditionalGeneration:
    """The golden base model."""
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder / checkpoint, attn_implementation=attn_implementation, dtype="float32"
    )


def with_budget(
    model: Qwen2_5_VLForConditionalGeneration, settings: Mapping[str, Any]
) -> Qwen2_5VLBackbone:
    """The model with a processor of these ``min_pixels`` and ``max_pixels``."""
    image_processor = Qwen2VLImageProcessor(
        min_pixels=settings["min_pixels"], max_pixels=settings["max_pixels"]
    )
    return Qwen2_5VLBackbone(model, IdProcessor(image_processor, model.config.image_token_id))


def golden_rpn(folder: Path, backbone: Qwen2_5VLBackbone, **overrides: Any) -> RPN:
    """The golden branch as an RPN; ``overrides`` are fields of its configuration."""
    published = json.loads((folder / "rpn/rpn.json").read_text())
    config = RPNConfig(
        **{
            "branch": published["branch_layer"],
            "n_layers": published["num_layers"],
            "head_options": {"rope": True, "multi_head": published["multi_head"]},
            **overrides,
        }
    )
    rpn = RPN.from_backbone(backbone, config)
    tensors = load_file(folder / "rpn/rpn.safetensors")
    names = {name: rpn_name(config.n_layers, name) for name in tensors}
    kept = {new: tensors[name].float() for name, new in names.items() if new is not None}
    assign_rpn_weights(rpn, kept, "rpn.safetensors")
    return rpn


def prompt_text(ids: np.ndarray, image_token_id: int) -> str:
    """Golden ids as a question: one placeholder for the visual tokens of each image."""
    collapsed: list[int] = []
    for token, run in groupby(ids.tolist()):
        collapsed.extend([token] if token == image_token_id else run)
    return " ".join(map(str, collapsed))


def case_file(folder: Path, name: str) -> Path:
    """The case of this name, to which other files refer; a set without it skips the test."""
    file = folder / f"case_{name}.npz"
    if not file.is_file():
        pytest.skip(f"this set has no case {name}")
    return file


def read_case(folder: Path, file: Path, data: Mapping[str, np.ndarray], model: Any) -> Case:
    """The case of an ``.npz`` file."""
    name = file.stem.removeprefix("case_")
    settings = json.loads((folder / "cases.json").read_text())[name]
    image = open_image(folder / settings["image"])
    backbone = with_budget(model, settings)
    text = prompt_text(data["input_ids"], backbone.image_token_id)
    return Case(name, settings, data, backbone, Question(text, (image,)))

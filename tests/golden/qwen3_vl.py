"""The golden Qwen3-VL: model, RPN and cases."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from transformers import Qwen2VLImageProcessor, Qwen3VLForConditionalGeneration

from sdrpn_core import RPN, RPNConfig, open_image
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.mask import MaskPolicy
from sdrpn_core.rpn.checkpoint import assign_rpn_weights
from sdrpn_qwen3_vl.backbone import Qwen3VLBackbone
from sdrpn_qwen3_vl.presets import POLICY_OPTIONS
from tests.golden.qwen2_5_vl import prompt_text
from tests.golden.runs import IdProcessor, rpn_name

#: README, tolerances.
POSITIONS = 1e-5
EMBEDDINGS = 2e-5
STATES = 2e-5
LOGITS = 5e-5
MAPS = 5e-5
PROBABILITIES = 5e-6
LOSS = 1e-5
GRADIENT = 1e-4
#: Sums over the 64 channels of a row, whose tolerance is that of a value.
ROW_SUMS = 64 * EMBEDDINGS

PIXELS = {"patch_size": 16, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SINK_THRESHOLD = 0.75


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
    backbone: Qwen3VLBackbone
    question: Question

    def thresholds(self) -> Iterator[tuple[MaskPolicy, str, dict[str, np.ndarray]]]:
        """Per threshold the policy, how the run ended, and its arrays."""
        for tag, run in self.settings["thresholds"].items():
            arrays = {k[len(tag) + 1 :]: v for k, v in self.data.items() if k.startswith(f"{tag}_")}
            yield published_policy(run["threshold"]), run["status"], arrays


def published_policy(threshold: float) -> MaskPolicy:
    """The settings of the published evaluation."""
    return MaskPolicy(**{**POLICY_OPTIONS, "threshold": threshold})


def load_qwen3(
    folder: Path, attn_implementation: str, checkpoint: str = "model_hf"
) -> Qwen3VLForConditionalGeneration:
    """The golden base model."""
    return Qwen3VLForConditionalGeneration.from_pretrained(
        folder / checkpoint, attn_implementation=attn_implementation, dtype="float32"
    )


def with_budget(model: Any, settings: Mapping[str, Any]) -> Qwen3VLBackbone:
    """The model with a processor of these ``min_pixels`` and ``max_pixels``."""
    size = {"shortest_edge": settings["min_pixels"], "longest_edge": settings["max_pixels"]}
    image_processor = Qwen2VLImageProcessor(size=size, **PIXELS)
    return Qwen3VLBackbone(model, IdProcessor(image_processor, model.config.image_token_id))


def golden_rpn(folder: Path, backbone: Qwen3VLBackbone, head: str = "qk_sinks") -> RPN:
    """The golden branch as an RPN; the head ``qk`` leaves the sinks in."""
    published = json.loads((folder / "rpn/rpn.json").read_text())
    head_options = {"rope": True, "multi_head": True}
    config = RPNConfig(published["K"], published["T"], head=head, head_options=head_options)
    rpn = RPN.from_backbone(backbone, config)
    tensors = load_file(folder / "rpn/rpn.safetensors")
    names = {name: rpn_name(config.n_layers, name) for name in tensors}
    last = f"layers.{config.n_layers - 1}."
    for part in ("self_attn.q_norm.", "self_attn.k_norm."):
        names[f"{last}{part}weight"] = f"head.attention.{part.removeprefix('self_attn.')}weight"
    kept = {new: tensors[name].float() for name, new in names.items() if new is not None}
    assign_rpn_weights(rpn, kept, "rpn.safetensors")
    return rpn


def read_case(folder: Path, file: Path, data: Mapping[str, np.ndarray], model: Any) -> Case:
    """The case of an ``.npz`` file."""
    name = file.stem.removeprefix("case_")
    settings = json.loads((folder / "cases.json").read_text())[name]
    image = open_image(folder / "images" / f"{name}.png")
    backbone = with_budget(model, settings)
    text = prompt_text(data["input_ids"], backbone.image_token_id)
    return Case(name, settings, data, backbone, Question(text, (image,)))

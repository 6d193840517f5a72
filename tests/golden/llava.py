"""The golden LLaVA through the public core: no tokenizer ships with it, so questions are ids.

A golden question is the text of its token ids, and :class:`IdProcessor` reads them back. Everything
else is what a user runs: an adapter, an RPN, a proposer and ``answer_batch``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, LlavaForConditionalGeneration, LogitsProcessor

from sdrpn_core import RPN, RPNConfig, open_image
from sdrpn_core.answering import Answer, answer_batch
from sdrpn_core.backbone import ImageInput, Question
from sdrpn_core.crops import CropPlan, CropPolicy
from sdrpn_core.generation import end_token_ids
from sdrpn_core.prefill import Prefill
from sdrpn_core.proposers import Proposal, Proposer
from sdrpn_core.roi_map import RoIMap
from sdrpn_core.rpn.checkpoint import assign_rpn_weights
from sdrpn_llava.backbone import LlavaBackbone

#: Stands for the picture in the golden ids.
IMAGE_ID = -200

#: README: logits of the plain model, and of the two-stage answer.
PLAIN_LOGITS = 1e-4
LOGITS = 1e-3


class IdProcessor:
    """A processor whose texts are token ids, separated by spaces."""

    chat_template = "the question is the prompt"
    bos_token = None

    def __init__(self, image_processor: Any, image_token_id: int) -> None:
        self.image_processor = image_processor
        self.tokenizer = self
        self.image_token_id = image_token_id

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        (text,) = (p["text"] for p in messages[-1]["content"] if p["type"] == "text")
        return str(text)

    def __call__(self, text: str, **options: Any) -> IdProcessor:
        self.input_ids = [
            self.image_token_id if token == str(IMAGE_ID) else int(token) for token in text.split()
        ]
        return self

    def convert_ids_to_tokens(self, token: int) -> str:
        return str(token)

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return " ".join(map(str, ids))


class BlackCropLlava(LlavaBackbone):
    """The published defect: a crop without pixels becomes a black picture."""

    def preprocess_crop(self, image: Image.Image) -> ImageInput:
        return super().preprocess_crop(image if all(image.size) else Image.new("RGB", (1, 1)))


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


def rpn_name(n_layers: int, published: str) -> str | None:
    """What an RPN calls a tensor of the golden branch; ``None`` if no score depends on it."""
    last = f"layers.{n_layers - 1}."
    for part, own in {
        "input_layernorm.": "head.norm.",
        "self_attn.q_proj.": "head.attention.q_proj.",
        "self_attn.k_proj.": "head.attention.k_proj.",
    }.items():
        if published.startswith(last + part):
            return own + published.removeprefix(last + part)
    unused = published.startswith((last, "twig_head."))
    return None if unused else published


def question_of(folder: Path, sample: Mapping[str, Any]) -> Question:
    """A golden sample as a question."""
    image = open_image(folder / f"images/img_{int(sample['image_index']):02d}.png")
    return Question(" ".join(map(str, sample["input_ids"].tolist())), (image,))


def until_end(backbone: LlavaBackbone, ids: Any) -> tuple[int, ...]:
    """Golden ids as an answer has them: without the end token and what follows."""
    row = [int(token) for token in ids]
    ends = [place for place, token in enumerate(row) if token in end_token_ids(backbone)]
    return tuple(row[: ends[0]] if ends else row)


class PlanProposer(Proposer):
    """Proposes one given plan."""

    def __init__(self, plan: CropPlan) -> None:
        self.plan = plan

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        return [[Proposal(self.plan)]]


class MapProposer(Proposer):
    """Proposes what a policy makes of one given map."""

    def __init__(self, scores: np.ndarray, policy: CropPolicy) -> None:
        self.roi = RoIMap(scores)
        self.policy = policy

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        (image,) = state.prompts[0].images
        assert image.geometry is not None
        return [[Proposal(self.policy.plan(self.roi, image.geometry), self.roi)]]


class LogitsRecorder(LogitsProcessor):
    """Keeps the logits of every step of ``generate()``."""

    def __init__(self) -> None:
        self.steps: list[np.ndarray] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(scores[0].float().numpy().copy())
        return scores


@dataclass(frozen=True)
class Run:
    """An answer as it was computed.

    Attributes:
        answer: what came back.
        logits: of every generated token.
        positions: position ids of every call of the decoder, in order.
    """

    answer: Answer
    logits: list[np.ndarray]
    positions: list[np.ndarray]

    @property
    def margins(self) -> list[float]:
        """Top-1 minus top-2 of every step."""
        top = [np.sort(step)[-2:] for step in self.logits]
        return [float(high - low) for low, high in top]


def run(
    backbone: LlavaBackbone, question: Question, proposer: Proposer | None, n_tokens: int
) -> Run:
    """Answer a question, with the logits and positions seen on the way."""
    recorder = LogitsRecorder()
    with recorded_positions(backbone) as positions:
        (answer,) = answer_batch(
            backbone, [question], proposer, max_new_tokens=n_tokens, logits_processor=[recorder]
        )
    return Run(answer, recorder.steps, positions)


@contextmanager
def recorded_positions(backbone: LlavaBackbone) -> Iterator[list[np.ndarray]]:
    """The position ids of the first row of every decoder call."""
    seen: list[np.ndarray] = []

    def record(module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        seen.append(kwargs["position_ids"][0].numpy().copy())

    handle = backbone.decoder.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def block_means(pixels: torch.Tensor, patch: int) -> np.ndarray:
    """Mean of ``(channels, side, side)`` over each patch."""
    tiles = pixels.unfold(1, patch, patch).unfold(2, patch, patch)
    return tiles.mean(dim=(3, 4)).numpy()

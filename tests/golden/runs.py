"""What golden tests of every family run: questions as ids, given plans, logits and positions.

No tokenizer ships with the golden models: a golden question is the text of its token ids, and
:class:`IdProcessor` reads them back. Everything else is what a user runs: an adapter, an RPN, a
proposer and ``answer_batch``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.prefill import Prefill
from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.answering.results import Answer
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import Question
from sdrpn_core.crops.policy import CropPlan, CropPolicy
from sdrpn_core.grid.roi_map import RoIMap
from sdrpn_core.runtime.generate_options import end_token_ids

#: Stands for the image in the golden ids.
IMAGE_ID = -200


class IdProcessor:
    """A processor whose texts are token ids, separated by spaces."""

    chat_template = "the question is the prompt"
    bos_token = None
    #: No text spells a special token.
    added_tokens_decoder: Mapping[int, Any] = {}

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


def until_end(backbone: Backbone, ids: Any) -> tuple[int, ...]:
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
        positions: position ids of every call of the decoder, in order: ``(length,)``, or
            ``(axes, length)``.
    """

    answer: Answer
    logits: list[np.ndarray]
    positions: list[np.ndarray]

    @property
    def margins(self) -> list[float]:
        """Top-1 minus top-2 of every step."""
        top = [np.sort(step)[-2:] for step in self.logits]
        return [float(high - low) for low, high in top]


def run(backbone: Backbone, question: Question, proposer: Proposer | None, n_tokens: int) -> Run:
    """Answer a question, with the logits and positions seen on the way."""
    recorder = LogitsRecorder()
    with recorded_positions(backbone) as positions:
        (answer,) = answer_batch(
            backbone, [question], proposer, max_new_tokens=n_tokens, logits_processor=[recorder]
        )
    return Run(answer, recorder.steps, positions)


@contextmanager
def recorded_positions(backbone: Backbone) -> Iterator[list[np.ndarray]]:
    """The position ids of the first row of every decoder call."""
    seen: list[np.ndarray] = []

    def record(module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        seen.append(kwargs["position_ids"][..., 0, :].numpy().copy())

    handle = backbone.decoder.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()

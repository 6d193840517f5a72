"""The stock model's own ``generate()`` on ids and pixels: what everything else is compared with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import LogitsProcessor

from sdrpn_core import Backbone, Question
from sdrpn_core.testing.subject import ContractSubject


class StockAnswer:
    """Answers a question without sdrpn, but for what its ids are.

    Args:
        backbone: holds the stock model, and prepares its pixels.
        question: with its images.
        options: of ``generate()``.
    """

    def __init__(self, backbone: Backbone, question: Question, options: Mapping[str, Any]) -> None:
        self.backbone = backbone
        self.question = question
        self.options = options
        (self.prompt,) = backbone.encode([question])
        self.ids = torch.tensor([backbone.token_ids(self.prompt)])

    @torch.no_grad()
    def seconds(self) -> dict[str, float]:
        """Answer once more; seconds up to the first token, and for the others."""
        start = time.perf_counter()
        images = [self.backbone.preprocess(image) for image in self.question.images]
        first = _FirstToken()
        self.backbone.model.generate(
            **ContractSubject.stock_inputs(self.backbone, self.prompt, self.ids, images),
            attention_mask=torch.ones_like(self.ids),
            do_sample=False,
            logits_processor=[first],
            **self.options,
        )
        return {"prefill": first.time - start, "decode": time.perf_counter() - first.time}


class _FirstToken(LogitsProcessor):
    """Notes when the logits of the first token exist."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.time = self.time or time.perf_counter()
        return scores

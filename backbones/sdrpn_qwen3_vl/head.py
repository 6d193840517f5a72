"""The published RPN head of Qwen3-VL: the paper's, without attention sinks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.head import HeadInputs, PositionEmbeddings
from sdrpn_core.rpn.qk_head import QKHead


class SinkQKHead(QKHead):
    """The ``qk`` head; visual tokens that are attention sinks score as low as can be.

    A sink is what the very first token points at: with its first query head, against the keys of
    all heads (published). In training labels say what counts, and none are looked for.

    Options:
        sink_threshold: the probability from which a token is a sink. Published: 0.75.
        others: as of the ``qk`` head.
    """

    defaults: ClassVar[Mapping[str, Any]] = {**QKHead.defaults, "sink_threshold": 0.75}

    def __init__(
        self, layers: Sequence[nn.Module], text_config: Any, options: Mapping[str, Any]
    ) -> None:
        super().__init__(layers, text_config, options)
        threshold = options["sink_threshold"]
        if isinstance(threshold, bool) or not (
            isinstance(threshold, (int, float)) and 0 < threshold < 1
        ):
            raise ConfigError(
                f"qk_sinks head: sink_threshold must lie between 0 and 1, not {threshold!r}"
            )
        self.sink_threshold = float(threshold)

    def highest_scores(
        self,
        inputs: HeadInputs,
        queries: torch.Tensor,
        rotary: PositionEmbeddings | None,
        distribution: bool,
    ) -> torch.Tensor:
        """As of the ``qk`` head; sinks get the lowest finite logit, or no share."""
        if self.training or inputs.first is None:
            return super().highest_scores(inputs, queries, rotary, distribution)
        tokens = [(queries, rotary), (inputs.first[:, None], inputs.first_rotary)]
        (query, first), key = self.queries_and_key(inputs, tokens)
        scores = self.highest_products(query, key, inputs.valid, distribution)
        nothing = 0.0 if distribution else torch.finfo(scores.dtype).min
        return scores.masked_fill(sink_scores(first, key) >= self.sink_threshold, nothing)


def sink_scores(first: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """How much of a sink each visual token is: ``(images, n)`` probabilities.

    Args:
        first: ``(images, heads, 1, d)``, the first token's query.
        key: ``(images, heads, n, d)``, the visual tokens' keys.
    """
    products = (key @ first[:, :1].transpose(2, 3)).squeeze(-1) / math.sqrt(key.shape[-1])
    return products.float().mean(dim=1).sigmoid()

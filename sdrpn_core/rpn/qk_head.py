"""The paper's head: query-key products of one decoder layer, averaged over its heads."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AttentionInterface

from sdrpn_core.backbone.decoder import part
from sdrpn_core.errors import ConfigError
from sdrpn_core.rpn.head import HeadInputs, PositionEmbeddings, RPNHead, masked_softmax

#: Attention implementation that hands back the query and key instead of attending.
_CAPTURE = "sdrpn_query_key"

SOURCES = ("projections", "hidden_states")


class _QueryKey(Exception):
    """Carries the query and key out of an attention module; never leaves the head."""

    def __init__(self, query: torch.Tensor, key: torch.Tensor) -> None:
        super().__init__()
        self.query, self.key = query, key


def _capture(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any
) -> None:
    raise _QueryKey(query, key)


AttentionInterface.register(_CAPTURE, _capture)


class _FirstChannels(nn.Module):
    """Stands in for a value projection that is never used: a view of one head's worth of input."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden[..., : self.n]


class QKHead(RPNHead):
    """Mean over heads of q.k / sqrt(d); q from the last prompt token, k from the visual tokens.

    Of the decoder layer that the head is built from, only the input norm and the attention up to
    its query and key are used (paper, Sec. 3.3), so the value and output projections, the MLP and
    the second norm are dropped. The stock attention module computes q and k, so that biases,
    grouped heads, query-key norms and any kind of rotary embedding come out as in the backbone.

    Options:
        rope: apply the layer's rotary embeddings (published: off for models with one-dimensional
            positions, on for those with multimodal ones).
        multi_head: average per-head scores scaled by 1 / sqrt(head_dim). Off: one plain product
            over all channels, unscaled, as published; needs as many key heads as query heads.
        source: ``projections`` (the paper's), or ``hidden_states``: no layer of its own, the scaled
            product of the trunk's hidden states.
        sink_threshold: visual tokens that are attention sinks score as low as can be: those at
            which the first token of the sequence points, with its first head against all key
            heads, with at least this probability. Published for Qwen3-VL: 0.75. ``None``
            (default): none are looked for.
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "rope": True,
        "multi_head": True,
        "source": "projections",
        "sink_threshold": None,
    }

    @classmethod
    def n_own_layers(cls, options: Mapping[str, Any]) -> int:
        """One for ``projections``, none for ``hidden_states``."""
        return 1 if options["source"] == "projections" else 0

    def __init__(
        self, layers: Sequence[nn.Module], text_config: Any, options: Mapping[str, Any]
    ) -> None:
        super().__init__(layers, text_config, options)
        if options["source"] not in SOURCES:
            raise ConfigError(
                f"unknown source {options['source']!r} of the qk head; known: {', '.join(SOURCES)}"
            )
        self.rope = bool(options["rope"])
        self.multi_head = bool(options["multi_head"])
        self.sink_threshold = _probability(options["sink_threshold"])
        self.norm: nn.Module | None = None
        self.attention: nn.Module | None = None
        if layers:
            self.norm = part(layers[0], "input_layernorm")
            self.attention = _up_to_query_key(part(layers[0], "self_attn"))

    def forward(self, inputs: HeadInputs, distribution: bool) -> torch.Tensor:
        """Scores ``(images, n)``; a distribution is softmaxed per head before the mean."""
        query, key, first = self._query_key(inputs)
        if self.multi_head:
            scores = (key @ query.transpose(2, 3)).squeeze(-1) / math.sqrt(key.shape[-1])
        else:
            scores = (key * query).sum(dim=(1, 3)).unsqueeze(1)
        if distribution:
            scores = masked_softmax(scores, inputs.valid[:, None]).mean(dim=1)
        else:
            scores = scores.float().mean(dim=1)
        if self.sink_threshold is None or first is None or self.training:
            return scores
        # A finite number, as scores are, of which the sigmoid is nevertheless zero.
        nothing = 0.0 if distribution else torch.finfo(scores.dtype).min
        return scores.masked_fill(sink_scores(first, key) >= self.sink_threshold, nothing)

    def _query_key(
        self, inputs: HeadInputs
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """``(images, heads, 1, d)``, ``(images, heads, n, d)``, and the first token's query."""
        riders = [inputs.query] if inputs.first is None else [inputs.query, inputs.first]
        if self.attention is None or self.norm is None:
            first = None if inputs.first is None else inputs.first[:, None, None]
            return inputs.query[:, None, None], inputs.visual[:, None], first
        # The queries ride behind the visual tokens, so that one call serves all.
        hidden = torch.cat([inputs.visual, *(rider[:, None] for rider in riders)], dim=1)
        try:
            self.attention(
                hidden_states=self.norm(hidden),
                position_embeddings=self._rotary(inputs),
                attention_mask=None,
            )
        except _QueryKey as captured:
            query, key = captured.query, captured.key
        else:
            raise RuntimeError("the attention module did not use the attention interface")
        groups = query.shape[1] // key.shape[1]
        if groups > 1 and not self.multi_head:
            raise ConfigError(
                f"single-head scoring needs as many key heads as query heads, not {key.shape[1]} "
                f"for {query.shape[1]}; use multi_head"
            )
        n = inputs.visual.shape[1]
        first = query[:, :, n + 1 :] if inputs.first is not None else None
        return query[:, :, n : n + 1], key[:, :, :n].repeat_interleave(groups, dim=1), first

    def _rotary(self, inputs: HeadInputs) -> PositionEmbeddings | None:
        parts = [inputs.visual_rotary, inputs.query_rotary]
        if inputs.first is not None:
            parts.append(inputs.first_rotary)
        given = [part for part in parts if part is not None]
        if len(given) < len(parts):
            return None
        cos, sin = (torch.cat(kind, dim=1) for kind in zip(*given, strict=True))
        if self.rope:
            return cos, sin
        return torch.ones_like(cos), torch.zeros_like(sin)  # a rotation by nothing


def sink_scores(first: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """How much of an attention sink each visual token is: ``(images, n)`` probabilities.

    As published: the query of one head, the first, against the keys of all.

    Args:
        first: ``(images, heads, 1, d)``, the first token's query.
        key: ``(images, heads, n, d)``, the visual tokens' keys.
    """
    products = (key @ first[:, :1].transpose(2, 3)).squeeze(-1) / math.sqrt(key.shape[-1])
    return products.float().mean(dim=1).sigmoid()


def _probability(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ConfigError(f"qk head: sink_threshold must lie between 0 and 1, not {value!r}")
    return float(value)


def _up_to_query_key(attention: Any) -> nn.Module:
    """Drop what comes after query and key from a stock attention module, in place."""
    attention.config = copy.copy(attention.config)
    attention.config._attn_implementation = _CAPTURE
    if hasattr(attention, "v_proj"):
        attention.v_proj = _FirstChannels(attention.head_dim)
    for name in ("o_proj", "out_proj"):
        if hasattr(attention, name):
            setattr(attention, name, nn.Identity())
    module: nn.Module = attention
    return module

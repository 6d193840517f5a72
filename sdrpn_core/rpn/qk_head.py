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

#: Products of queries and keys that are there at a time: 256 MiB in float32.
_MAX_PRODUCTS = 2**26


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
    """Replaces a value projection whose output is never used: a view of the first channels."""

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
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "rope": True,
        "multi_head": True,
        "source": "projections",
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
        self.norm: nn.Module | None = None
        self.attention: nn.Module | None = None
        if layers:
            self.norm = part(layers[0], "input_layernorm")
            self.attention = _up_to_query_key(part(layers[0], "self_attn"))

    def forward(self, inputs: HeadInputs, distribution: bool) -> torch.Tensor:
        """Scores ``(images, n)``; a distribution is softmaxed per head before the mean."""
        return self.highest_scores(inputs, inputs.query[:, None], inputs.query_rotary, distribution)

    def highest_scores(
        self,
        inputs: HeadInputs,
        queries: torch.Tensor,
        rotary: PositionEmbeddings | None,
        distribution: bool,
    ) -> torch.Tensor:
        """As of every head; the keys of the visual tokens are computed once for all queries."""
        (query,), key = self.queries_and_key(inputs, [(queries, rotary)])
        return self.highest_products(query, key, inputs.valid, distribution)

    def highest_products(
        self, query: torch.Tensor, key: torch.Tensor, valid: torch.Tensor, distribution: bool
    ) -> torch.Tensor:
        """Per visual token the highest of its products with several queries.

        Args:
            query: ``(images, heads, q, d)``.
            key: ``(images, heads, n, d)``, of the visual tokens.
            valid: ``(images, n)`` bool.
            distribution: softmax over the visual tokens, per head and query.

        Returns:
            ``(images, n)`` float32: means over the heads.
        """
        if not self.multi_head:
            # One head as wide as all of them.
            query, key = (part.transpose(1, 2).flatten(2)[:, None] for part in (query, key))
        n_at_a_time = max(1, _MAX_PRODUCTS // (key.shape[0] * key.shape[1] * key.shape[2]))
        found = [
            self._products(part, key, valid, distribution).amax(dim=1)
            for part in query.split(n_at_a_time, dim=2)
        ]
        return found[0] if len(found) == 1 else torch.stack(found).amax(dim=0)

    def _products(
        self, query: torch.Tensor, key: torch.Tensor, valid: torch.Tensor, distribution: bool
    ) -> torch.Tensor:
        """``(images, q, n)`` float32, means over the heads."""
        scores = (key @ query.transpose(2, 3)).transpose(2, 3)
        if self.multi_head:
            scores = scores / math.sqrt(key.shape[-1])
        if distribution:
            return masked_softmax(scores, valid[:, None, None]).mean(dim=1)
        return scores.float().mean(dim=1)

    def queries_and_key(
        self, inputs: HeadInputs, tokens: Sequence[tuple[torch.Tensor, PositionEmbeddings | None]]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Queries of some tokens, and the visual tokens' keys.

        Args:
            inputs: holds the visual tokens.
            tokens: groups of those that ask: hidden states ``(images, q, hidden)`` and rotary
                embeddings ``(images, q, dim)``.

        Returns:
            Per group ``(images, heads, q, d)``; and ``(images, heads, n, d)``.
        """
        if self.attention is None or self.norm is None:
            return [hidden[:, None] for hidden, _ in tokens], inputs.visual[:, None]
        # The queries are appended to the visual tokens, so that one call computes all.
        hidden = torch.cat([inputs.visual, *(group for group, _ in tokens)], dim=1)
        try:
            self.attention(
                hidden_states=self.norm(hidden),
                position_embeddings=self._rotary([inputs.visual_rotary, *(r for _, r in tokens)]),
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
        queries = query[:, :, n:].split([group.shape[1] for group, _ in tokens], dim=2)
        return list(queries), key[:, :, :n].repeat_interleave(groups, dim=1)

    def _rotary(self, parts: Sequence[PositionEmbeddings | None]) -> PositionEmbeddings | None:
        given = [part for part in parts if part is not None]
        if len(given) < len(parts):
            return None
        cos, sin = (torch.cat(kind, dim=1) for kind in zip(*given, strict=True))
        if self.rope:
            return cos, sin
        return torch.ones_like(cos), torch.zeros_like(sin)  # the identity rotation


def _up_to_query_key(attention: Any) -> nn.Module:
    """Remove everything behind query and key from a stock attention module, in place."""
    attention.config = copy.copy(attention.config)
    attention.config._attn_implementation = _CAPTURE
    if hasattr(attention, "v_proj"):
        attention.v_proj = _FirstChannels(attention.head_dim)
    for name in ("o_proj", "out_proj"):
        if hasattr(attention, name):
            setattr(attention, name, nn.Identity())
    module: nn.Module = attention
    return module

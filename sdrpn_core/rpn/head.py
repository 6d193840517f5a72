"""The base class of RPN heads: each scores visual tokens, given the query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

PositionEmbeddings = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class HeadInputs:
    """Hidden states that leave the RPN's trunk, one row per image.

    Attributes:
        visual: ``(images, n, hidden)`` visual tokens, row-major, padded at the end.
        valid: ``(images, n)`` bool, False at padding.
        query: ``(images, hidden)`` the last prompt token.
        grids: per image ``(h, w)``.
        visual_rotary: cos and sin ``(images, n, dim)`` of the visual tokens' positions; ``None``
            where the decoder has no rotary embeddings.
        query_rotary: the same for the query, ``(images, 1, dim)``.
        first: ``(images, hidden)`` the first token of each sequence; ``None`` where it is unknown.
        first_rotary: as ``query_rotary``.
    """

    visual: torch.Tensor
    valid: torch.Tensor
    query: torch.Tensor
    grids: Sequence[tuple[int, int]]
    visual_rotary: PositionEmbeddings | None = None
    query_rotary: PositionEmbeddings | None = None
    first: torch.Tensor | None = None
    first_rotary: PositionEmbeddings | None = None


class RPNHead(nn.Module, ABC):
    """Scores every visual token.

    A head is built from the last of the RPN's copied decoder layers: those that
    :meth:`n_own_layers` claims are handed to it, the others form the trunk.
    """

    #: Names of the options that the head understands, with their defaults.
    defaults: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def n_own_layers(cls, options: Mapping[str, Any]) -> int:
        """How many of the R copied layers the head takes for itself."""
        return 0

    @abstractmethod
    def __init__(
        self, layers: Sequence[nn.Module], text_config: Any, options: Mapping[str, Any]
    ) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, inputs: HeadInputs, distribution: bool) -> torch.Tensor:
        """Scores ``(images, n)`` float32: logits, or a distribution over the valid tokens."""

    def highest_scores(
        self,
        inputs: HeadInputs,
        queries: torch.Tensor,
        rotary: PositionEmbeddings | None,
        distribution: bool,
    ) -> torch.Tensor:
        """The highest score that each visual token gets from any of several queries.

        One query at a time, which holds for every head; a head that can do better with what all
        queries have in common overrides it.

        Args:
            inputs: hold the visual tokens; their own query counts no more than the others do.
            queries: ``(images, q, hidden)``, one or more per image.
            rotary: cos and sin ``(images, q, dim)`` of the queries' positions, as in the inputs.
            distribution: as of the forward call.

        Returns:
            ``(images, n)`` float32.
        """
        found = [
            self(
                replace(
                    inputs,
                    query=queries[:, index],
                    query_rotary=_one_position(rotary, index),
                ),
                distribution,
            )
            for index in range(queries.shape[1])
        ]
        return torch.stack(found).amax(dim=0)


def _one_position(rotary: PositionEmbeddings | None, index: int) -> PositionEmbeddings | None:
    if rotary is None:
        return None
    cos, sin = rotary
    return cos[:, index : index + 1], sin[:, index : index + 1]


def masked_softmax(scores: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Softmax in float32 over the last dimension; padding gets zero."""
    scores = scores.float().masked_fill(~valid, float("-inf"))
    return scores.softmax(dim=-1)

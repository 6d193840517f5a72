"""Gates without layers of their own: they read what the RPN found, at next to no cost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from timm.layers.mlp import Mlp
from torch import nn
from torch.nn import functional

from sdrpn_core.errors import ConfigError
from sdrpn_core.gate.gate import Gate

#: Numbers by which a gate learns the extent of a region, behind the region's state.
N_EXTENTS = 3


class RegionGate(Gate):
    """A head on the last prompt token and on what the RPN found.

    How large the region is, and what the visual tokens in it know, says more about whether the
    image shows enough of it than the question does. Both states are normalized, without weights.
    """

    def __init__(
        self, layers: Sequence[nn.Module], hidden_size: int, options: Mapping[str, Any]
    ) -> None:
        super().__init__(layers, hidden_size, options)
        self.hidden_size = hidden_size
        self.head = self.make_head(2 * hidden_size + N_EXTENTS, options)

    @abstractmethod
    def make_head(self, n_inputs: int, options: Mapping[str, Any]) -> nn.Module:
        """The layers from ``(batch, n_inputs)`` to ``(batch, 1)``."""

    def forward(self, last: torch.Tensor, region: torch.Tensor | None = None) -> torch.Tensor:
        """Logits ``(batch,)``.

        Raises:
            ValueError: the region is missing.
        """
        if region is None:
            raise ValueError("this gate reads what the RPN found")
        region = region.to(last.dtype)
        states = (last, region[:, : self.hidden_size])
        normalized = (functional.layer_norm(state, (self.hidden_size,)) for state in states)
        logits: torch.Tensor = self.head(
            torch.cat([*normalized, region[:, self.hidden_size :]], dim=1)
        )
        return logits[:, 0]


class LinearGate(RegionGate):
    """A linear layer."""

    def make_head(self, n_inputs: int, options: Mapping[str, Any]) -> nn.Module:
        """See :class:`RegionGate`."""
        return nn.Linear(n_inputs, 1)


class MlpGate(RegionGate):
    """Two linear layers with a GELU between them.

    Whether a region is large enough depends on what is asked about it, which a single layer cannot
    express.
    """

    #: Width of the hidden layer.
    defaults: ClassVar[Mapping[str, Any]] = {"width": 64}

    def make_head(self, n_inputs: int, options: Mapping[str, Any]) -> nn.Module:
        """See :class:`RegionGate`.

        Raises:
            ConfigError: the width is less than 1.
        """
        width: int = options["width"]
        if width < 1:
            raise ConfigError(f"width of the mlp gate must be 1 or more, not {width}")
        return Mlp(n_inputs, width, 1)

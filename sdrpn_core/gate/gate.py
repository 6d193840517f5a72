"""The base class of gates: each turns the state of the last prompt token into one logit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from sdrpn_core.errors import ConfigError
from sdrpn_core.gate.config import GateConfig
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.taps.copied_layers import copy_layers
from sdrpn_core.util.option_kinds import complete_options

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone


class Gate(nn.Module, ABC):
    """Says from the last prompt token whether a question needs a region.

    A gate with layers of its own reads what leaves them: they start as copies of the decoder's
    layers from B on, and run before the RPN. A gate without any runs behind the RPN: it reads what
    leaves the trunk, and what the RPN found.

    Args:
        layers: the copies that :meth:`n_own_layers` asks for.
        hidden_size: width of the decoder.
        options: the gate's options, complete.
    """

    #: Names of the options that the gate understands, with their defaults.
    defaults: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def n_own_layers(cls, options: Mapping[str, Any]) -> int:
        """How many decoder layers the gate copies, from B on; 0: it reads the RPN's trunk."""
        return 0

    def __init__(
        self, layers: Sequence[nn.Module], hidden_size: int, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    @abstractmethod
    def forward(self, last: torch.Tensor, region: torch.Tensor | None = None) -> torch.Tensor:
        """Logits ``(batch,)`` of "the question needs a region".

        Args:
            last: ``(batch, hidden)`` state of the last prompt token.
            region: ``(batch, hidden + 3)``, what the RPN found, as
                :func:`~sdrpn_core.rpn.region_summary.region_summaries` makes it; ``None`` for gates
                with layers of their own.
        """


class DecoderGate(Gate):
    """Decoder layers of its own under a linear layer: the gate of Q-Zoom (arXiv:2604.06912).

    Neither a norm nor pooling stands between the last layer and the head, as in its code.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"n_layers": 3}

    @classmethod
    def n_own_layers(cls, options: Mapping[str, Any]) -> int:
        """Option ``n_layers``; 3 as published.

        Raises:
            ConfigError: it is less than 1.
        """
        n_layers: int = options["n_layers"]
        if n_layers < 1:
            raise ConfigError(f"n_layers of the decoder gate must be 1 or more, not {n_layers}")
        return n_layers

    def __init__(
        self, layers: Sequence[nn.Module], hidden_size: int, options: Mapping[str, Any]
    ) -> None:
        super().__init__(layers, hidden_size, options)
        self.head = nn.Linear(hidden_size, 1)

    def forward(self, last: torch.Tensor, region: torch.Tensor | None = None) -> torch.Tensor:
        """Logits ``(batch,)``; the region is not read."""
        return self.head(last)[:, 0]


def new_gate(config: GateConfig, backbone: Backbone, branch: int) -> Gate:
    """A new gate, whose layers start as copies of the backbone's from ``branch`` on.

    Args:
        config: which gate.
        backbone: where the copies come from.
        branch: B.

    Raises:
        ConfigError: an option that is unknown or of another kind, or more layers than the decoder
            has from B on.
        UnknownNameError: no gate of that name.
    """
    gate_class, options = _class_and_options(config)
    count = gate_class.n_own_layers(options)
    _check_room(config.name, count, backbone, branch)
    backbone.check_branch(branch, max(count, 1))
    gate: Gate = gate_class(copy_layers(backbone, branch, count), backbone.hidden_size, options)
    gate.to(device=next(backbone.layers[branch].parameters()).device)
    return gate.requires_grad_(True)


def n_gate_layers(config: GateConfig) -> int:
    """How many decoder layers a gate copies, from B on.

    Raises:
        ConfigError: an option that is unknown or of another kind.
        UnknownNameError: no gate of that name.
    """
    gate_class, options = _class_and_options(config)
    return gate_class.n_own_layers(options)


def _check_room(name: str, count: int, backbone: Backbone, branch: int) -> None:
    n_loaded, last = len(backbone.layers), branch + count - 1
    if last < n_loaded:
        return
    copied = f"the {name} gate copies {count} decoder layers from {branch} on, up to {last}"
    if last < backbone.n_layers:
        raise ConfigError(f"{copied}, but only {n_loaded} were loaded: load {last + 1} or more")
    room = backbone.n_layers - branch
    raise ConfigError(
        f"{copied}, but the decoder ends with layer {backbone.n_layers - 1}: take {room} or fewer "
        f"(--gate-option n_layers={room}), or a gate that copies none (--gate linear or mlp)"
    )


def _class_and_options(config: GateConfig) -> tuple[type[Gate], dict[str, Any]]:
    gate_class: type[Gate] = get_plugins().gates.get(config.name)
    return gate_class, complete_options(f"{config.name} gate", config.options, gate_class.defaults)

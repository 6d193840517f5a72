"""An optimizer's state as named tensors and plain numbers: what can be stored without pickling.

Parameters go by their names, as in ``torch.distributed.checkpoint``, which takes the state out and
puts it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

#: A parameter that never had a gradient has no state.
_OPTIONS = StateDictOptions(strict=False)


def split_state(
    module: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Take the state apart.

    Args:
        module: holds every parameter of the optimizer; its names are used.
        optimizer: of that module.

    Returns:
        The tensors, named ``<parameter>.<state>``, and everything else as plain JSON values. Both
        are empty for an optimizer without state.
    """
    if not optimizer.state:  # torch would make one, by a step of length 0
        return {}, {}
    state: dict[str, Any] = get_optimizer_state_dict(module, optimizer)
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{name}.{key}"] = value.detach().cpu().contiguous()
            else:
                numbers.setdefault(name, {})[key] = value
    return tensors, {"state": numbers, "param_groups": state["param_groups"]}


def restore_state(
    module: nn.Module,
    optimizer: Optimizer,
    tensors: Mapping[str, torch.Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Put what :func:`split_state` took apart into an optimizer built in the same way.

    The parameters themselves may be moved by it: load them afterwards.

    Raises:
        KeyError: the state of a parameter that the module does not have, or no parameter groups.
        ValueError: the parameter groups differ.
    """
    if not numbers:
        return
    state: dict[str, dict[str, Any]] = {name: {} for name, _ in module.named_parameters()}
    for full_name, tensor in tensors.items():
        name, key = full_name.rsplit(".", 1)
        state[name][key] = tensor
    for name, values in numbers["state"].items():
        state[name].update(values)
    groups = [
        # JSON has no tuples.
        {key: tuple(v) if isinstance(v, list) and key != "params" else v for key, v in g.items()}
        for g in numbers["param_groups"]
    ]
    found: dict[str, Any] = {"state": {k: v for k, v in state.items() if v}, "param_groups": groups}
    set_optimizer_state_dict(module, optimizer, found, options=_OPTIONS)

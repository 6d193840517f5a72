"""An optimizer's state as named tensors and plain numbers: what can be stored without pickling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


def split_state(
    module: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Take the state apart.

    Args:
        module: holds every parameter of the optimizer; its names are used.
        optimizer: of that module.

    Returns:
        The tensors, named ``<parameter>.<state>``, and everything else as plain JSON values.
    """
    names = _parameter_names(module, optimizer)
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{names[index]}.{key}"] = value.detach().cpu().contiguous()
            else:
                numbers.setdefault(names[index], {})[key] = value
    groups = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
    return tensors, {"state": numbers, "param_groups": groups}


def restore_state(
    module: nn.Module,
    optimizer: Optimizer,
    tensors: Mapping[str, torch.Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Put what :func:`split_state` took apart into an optimizer built in the same way.

    Raises:
        KeyError: a tensor of a parameter that the optimizer does not have.
        ValueError: the parameter groups differ.
    """
    index = {name: place for place, name in enumerate(_parameter_names(module, optimizer))}
    state: dict[int, dict[str, Any]] = {}
    for full_name, tensor in tensors.items():
        name, key = full_name.rsplit(".", 1)
        state.setdefault(index[name], {})[key] = tensor
    for name, values in numbers["state"].items():
        state.setdefault(index[name], {}).update(values)
    fresh = optimizer.state_dict()["param_groups"]
    groups = []
    for group, saved in zip(fresh, numbers["param_groups"], strict=True):
        # JSON has no tuples.
        values = {k: tuple(v) if isinstance(group.get(k), tuple) else v for k, v in saved.items()}
        groups.append({**group, **values})
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _parameter_names(module: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the parameters in the order in which the optimizer numbers them."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]

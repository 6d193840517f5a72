"""An optimizer's state through files: the next step is the same, bit by bit."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from sdrpn_core.training.optim import make_optimizer
from sdrpn_core.training.optimizer_state import restore_state, split_state
from sdrpn_core.training.settings import TrainingSettings


def two_layers() -> nn.ModuleDict:
    """A module of which one layer is never used, and so never has a gradient."""
    torch.manual_seed(0)
    return nn.ModuleDict({"first": nn.Linear(3, 4), "last": nn.Linear(4, 2), "no": nn.Linear(2, 2)})


def step(module: nn.ModuleDict, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    (module["last"](module["first"](torch.ones(2, 3))) ** 2).sum().backward()
    optimizer.step()


def stored(module, optimizer):
    """Copies, as files would hold them."""
    tensors, numbers = split_state(module, optimizer)
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    return copies, json.loads(json.dumps(numbers))


def test_the_settings_are_those_of_torchs_optimizer():
    """Weights decay; vectors, such as biases and norms, do not."""
    settings = TrainingSettings(learning_rate=0.1, betas=(0.5, 0.6), weight_decay=0.3)
    module, expected = two_layers(), two_layers()
    found = make_optimizer(module, settings)
    options = {"lr": 0.1, "betas": (0.5, 0.6)}
    groups = [
        {"params": [p for p in expected.parameters() if p.ndim > 1], "weight_decay": 0.3},
        {"params": [p for p in expected.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    stock = torch.optim.AdamW(groups, **options)
    for _ in range(3):
        step(module, found)
        step(expected, stock)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name])


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adafactor", "nadamw", "adopt"])
def test_the_next_step_is_the_same(name):
    settings = TrainingSettings(optimizer=name, learning_rate=0.1, weight_decay=0.1)
    module = two_layers()
    optimizer = make_optimizer(module, settings)
    for _ in range(3):
        step(module, optimizer)
    tensors, numbers = stored(module, optimizer)
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    step(module, optimizer)

    other = two_layers()
    restored = make_optimizer(other, settings)
    restore_state(other, restored, tensors, numbers)
    other.load_state_dict(weights)
    step(other, restored)
    expected = module.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in other.state_dict().items())
    again, _ = stored(other, restored)
    assert not [key for key in again if key.startswith("no.")]


def test_an_optimizer_without_state_keeps_none():
    module = two_layers()
    optimizer = make_optimizer(module, TrainingSettings())
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert split_state(module, optimizer) == ({}, {})
    restore_state(module, optimizer, {}, {})
    assert not optimizer.state
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_the_state_of_another_module_is_refused():
    module = two_layers()
    optimizer = make_optimizer(module, TrainingSettings())
    step(module, optimizer)
    tensors, numbers = stored(module, optimizer)
    other = nn.ModuleDict({"first": nn.Linear(3, 4)})
    with pytest.raises(KeyError, match=r"last\.weight|last\.bias"):
        restore_state(other, make_optimizer(other, TrainingSettings()), tensors, numbers)

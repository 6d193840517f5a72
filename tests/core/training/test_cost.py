"""What training costs: frozen layers run once and without gradients, the others are not loaded."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sdrpn_core.backbone.loading import load_backbone
from sdrpn_core.labeling.stage import label
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.training.loading import layers_to_load
from sdrpn_core.training.settings import TrainingSettings
from sdrpn_core.training.stage import train
from tests.families import FAMILIES
from tests.stage_data import RECIPE, records
from tests.tiny import tiny_llava

CONFIG = RPNConfig(branch=2, n_layers=2, head_options={"rope": False})
#: 5 samples in batches of 3 and 2, which are two micro-batches and one.
N, MICRO_BATCHES = 5, 3
SETTINGS = TrainingSettings(
    learning_rate=1e-3, epochs=2, global_batch_size=3, micro_batch_size=2, log_every=1
)


class LayerCalls:
    """Counts the calls of a backbone's decoder layers, and whether any could record gradients."""

    def __init__(self, backbone) -> None:
        self.counts: Counter[int] = Counter()
        self.with_gradients = False
        self.layers = {id(layer): index for index, layer in enumerate(backbone.layers)}
        for layer in backbone.layers:
            layer.register_forward_pre_hook(self)

    def __call__(self, layer, args) -> None:
        # Copies of a layer inherit its hooks; they are the RPN's.
        if id(layer) in self.layers:
            self.counts[self.layers[id(layer)]] += 1
            self.with_gradients |= torch.is_grad_enabled()

    def __deepcopy__(self, memo) -> LayerCalls:
        return self


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])
def test_frozen_layers_run_once_per_micro_batch_and_are_never_recomputed(tmp_path, checkpointing):
    backbone = tiny_llava()
    label(backbone, records(N), tmp_path / "labels", recipe=RECIPE)
    calls = LayerCalls(backbone)
    settings = replace(SETTINGS, gradient_checkpointing=checkpointing)
    train(backbone, tmp_path / "labels", tmp_path / "run", settings, CONFIG)
    # The branch layer is entered, and the pass ends there; none behind it is.
    expected = dict.fromkeys(range(CONFIG.branch + 1), MICRO_BATCHES * SETTINGS.epochs)
    assert calls.counts == expected
    assert not calls.with_gradients


def test_features_carry_no_graph(tmp_path, monkeypatch):
    from sdrpn_core.rpn.model import RPN

    backbone = tiny_llava()
    label(backbone, records(N), tmp_path / "labels", recipe=RECIPE)
    seen = []
    original = RPN.forward

    def forward(self, features, places):
        seen.append(features.hidden.requires_grad)
        return original(self, features, places)

    monkeypatch.setattr(RPN, "forward", forward)
    train(backbone, tmp_path / "labels", tmp_path / "run", SETTINGS, CONFIG)
    assert seen == [False] * MICRO_BATCHES * SETTINGS.epochs


def assert_equal(a, b) -> None:
    first, second = (load_file(run / "rpn" / "model.safetensors") for run in (a, b))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (a / "rpn" / "config.json").read_bytes() == (b / "rpn" / "config.json").read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_loaded_in_part_trains_the_same_rpn(family, tmp_path):
    folder = FAMILIES[family](tmp_path / "model")
    whole = load_backbone(folder, device="cpu")
    label(whole, records(N), tmp_path / "labels", recipe=RECIPE)
    first = load_backbone(folder, device="cpu", n_layers=layers_to_load(CONFIG))
    assert len(first.layers) == 4
    train(whole, tmp_path / "labels", tmp_path / "whole", SETTINGS, CONFIG)
    train(first, tmp_path / "labels", tmp_path / "part", SETTINGS, CONFIG, free_backbone=True)
    assert_equal(tmp_path / "part", tmp_path / "whole")


def test_labels_made_on_the_way_need_the_layers_that_they_are_read_from(tmp_path):
    folder = FAMILIES["llava"](tmp_path / "model")
    config = replace(CONFIG, branch=1, n_layers=1)
    recipe = LabelRecipe(grounding={4: (0, 1)}, max_box_fraction=1.0)
    n_layers = layers_to_load(config, recipe)
    assert (layers_to_load(config), n_layers) == (2, 5)
    for name, options in (("whole", {}), ("part", {"n_layers": n_layers})):
        backbone = load_backbone(folder, device="cpu", **options)
        train(backbone, records(N), tmp_path / name, SETTINGS, config, recipe=recipe)
    assert_equal(tmp_path / "part", tmp_path / "whole")

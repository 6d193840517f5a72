"""Mistakes that concern RPNs, and presets that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.preset import Preset
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_llava.backbone import LlavaBackbone
from tests.contract.broken.harness import Broken


class Detached(LlavaBackbone):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for layer in self.decoder.layers:
            layer.input_layernorm.register_forward_hook(lambda *args: args[-1].detach())


class TestDetached(Broken):
    adapter = Detached
    noticed: ClassVar = {"test_an_rpn_trains_saves_and_loads": "layers: no gradient reaches"}


class FirstModelForAll(LlavaBackbone):
    """Parts of the first model, kept on the class."""

    first: ClassVar[Backbone | None] = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if FirstModelForAll.first is None:
            FirstModelForAll.first = LlavaBackbone(self.model, self.processor)

    @property
    def layers(self) -> torch.nn.ModuleList:
        return FirstModelForAll.first.layers

    @property
    def embedding(self) -> torch.nn.Embedding:
        return FirstModelForAll.first.embedding


class TestFirstModelForAll(Broken):
    adapter = FirstModelForAll
    noticed: ClassVar = {"test_an_rpn_of_another_backbone_is_refused": "layers or embedding: "}


def preset(name: str, head: int = 0, **match: Any) -> Preset:
    return Preset(
        name=name,
        match={"model_type": "llava", **match},
        branch=2,
        n_layers=2,
        recipes={"natural": LabelRecipe(grounding={3: (head,)})},
    )


class TestMissingHead(Broken):
    adapter = LlavaBackbone
    presets = (preset("mine", head=4),)
    noticed: ClassVar = {
        "test_presets_name_what_exists": "sdrpn_register_presets: 'mine' .* head 4"
    }


class TestMissingLayer(Broken):
    adapter = LlavaBackbone
    presets = (preset("mine", **{"text_config.num_hidden_layers": 3}),)
    noticed: ClassVar = {"test_presets_name_what_exists": "sdrpn_register_presets: 'mine' .*layer"}


class TestUnknownHeadOption(Broken):
    adapter = LlavaBackbone
    presets = (replace(preset("mine"), rpn={"head": "conv", "head_options": {"rope": True}}),)
    noticed: ClassVar = {
        "test_presets_name_what_exists": r"sdrpn_register_presets: 'mine' sets \['rope'\]"
    }


class TestTwoPresetsForOneModel(Broken):
    adapter = LlavaBackbone
    presets = (preset("small"), preset("wide", **{"text_config.hidden_size": 128}))
    noticed: ClassVar = {
        "test_presets_tell_models_apart": "sdrpn_register_presets: .* both 'small' and 'wide'"
    }

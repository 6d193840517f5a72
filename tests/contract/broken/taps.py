"""Mistakes that the taps would read."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_llava.backbone import LlavaBackbone
from tests.contract.broken.harness import Broken
from tests.tiny import CHAT_TEMPLATE, tiny_llava


class ScalesStates(LlavaBackbone):
    """A hook of its own in front of a decoder layer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.decoder.layers[2].register_forward_pre_hook(lambda _, states: (2 * states[0],))


class TestScalesStates(Broken):
    adapter = ScalesStates
    noticed: ClassVar = {
        "test_a_new_trunk_computes_the_decoders_states": "n_injections or layers",
        "test_tapped_features_equal_hidden_states": "decoder: the states tapped",
    }


class LayersReversed(LlavaBackbone):
    @property
    def layers(self) -> torch.nn.ModuleList:
        return torch.nn.ModuleList(reversed(super().layers))


class TestLayersReversed(Broken):
    adapter = LayersReversed
    noticed: ClassVar = {
        "test_a_new_trunk_computes_the_decoders_states": "n_injections or layers",
        "test_early_stop_runs_no_layer_from_the_branch_on": r"decoder: .* the layers \[5, 4\] ran",
    }


class TestAlwaysSdpa(Broken):
    adapter = LlavaBackbone
    noticed: ClassVar = {"test_tapped_attention_equals_eager": "make: asked for .*'eager'"}

    @classmethod
    def make(cls, attn_implementation: str = "sdpa") -> Backbone:
        return tiny_llava(chat_template=CHAT_TEMPLATE)

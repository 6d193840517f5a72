"""Presets: numbers found by experiment, which must fit the models that they are for."""

from __future__ import annotations

import itertools
import sys
from typing import Any

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.preset import Preset
from sdrpn_core.crops.policy import make_policy
from sdrpn_core.errors import SdrpnError
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.testing.checks import check
from sdrpn_core.testing.subject import ContractSubject
from sdrpn_core.training.settings import TrainingSettings


class PresetChecks(ContractSubject):
    """The presets that are registered for the adapter's model types."""

    def test_presets_name_what_exists(self, backbone: Backbone) -> None:
        """Layers and heads of their models, as far as ``match`` tells; heads, policies, settings.

        Where ``match`` gives no number of layers, the preset has to fit the model under test if it
        matches that.
        """
        for preset in _presets(backbone):
            n_layers = _matched(backbone, preset, "num_hidden_layers")
            n_heads = _matched(backbone, preset, "num_attention_heads")
            if preset.matches(backbone.model.config):
                n_layers, n_heads = backbone.n_layers, backbone.n_heads
            try:
                preset.check_fits(n_layers, n_heads)
                config = RPNConfig.from_preset(preset)
                get_plugins().rpn_heads.get(config.head)
                make_policy(preset.policy, dict(preset.policy_options))
                TrainingSettings.from_dict(preset.training)
            except SdrpnError as error:
                raise AssertionError(
                    f"sdrpn_register_presets: {preset.name!r} does not fit its models: {error}"
                ) from error
            options = get_plugins().rpn_heads.get(config.head).defaults
            unknown = sorted(config.head_options.keys() - options.keys())
            check(
                not unknown,
                f"sdrpn_register_presets: {preset.name!r} sets {unknown} of the head "
                f"{config.head!r}, which has {sorted(options)}",
            )

    def test_presets_tell_models_apart(self, backbone: Backbone) -> None:
        """No model may match two of them."""
        for one, other in itertools.combinations(_presets(backbone), 2):
            shared = one.match.keys() & other.match.keys()
            check(
                any(one.match[field] != other.match[field] for field in shared),
                f"sdrpn_register_presets: a model may match both {one.name!r} and {other.name!r}: "
                "give their match a field in which they differ",
            )


def _presets(backbone: Backbone) -> list[Preset]:
    presets = get_plugins().presets
    served = set(backbone.model_types)
    return [
        presets.get(entry.name)
        for entry in presets.entries()
        if served & set(entry.metadata.get("model_types", ()))
    ]


def _matched(backbone: Backbone, preset: Preset, field: str) -> int:
    """What a preset's ``match`` demands of the decoder's field; unlimited if it demands nothing."""
    for path, value in preset.match.items():
        parent, _, name = path.rpartition(".")
        config: Any = backbone.model.config
        for part in filter(None, parent.split(".")):
            config = getattr(config, part, None)
        if name == field and config is backbone.text_config:
            return int(value)
    return sys.maxsize

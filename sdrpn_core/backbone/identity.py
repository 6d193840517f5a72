"""Which backbone an RPN belongs to: cheap facts that survive a change of dtype and quantization."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.backbone.decoder import part
from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone

#: Config fields of the decoder that must agree exactly.
_CONFIG_FIELDS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)

#: Facts that are read off the weights.
_WEIGHTS = ("norm_weights", "attention_weights", "embedding_weights")

#: Those that a quantized model has as well.
_ALWAYS_THERE = ("norm_weights", "embedding_weights")

#: How many channels of a norm weight and of an embedding row identify the weights.
_N_CHANNELS = 8
#: The embedding row to look at: past the special tokens.
_EMBEDDING_ROW = 5
#: bfloat16 keeps 8 bits of mantissa; a fine-tuned backbone differs by far more in some channel.
_RELATIVE_TOLERANCE = 2**-6
_ABSOLUTE_TOLERANCE = 1e-3


def backbone_identity(backbone: Backbone, branch: int) -> dict[str, Any]:
    """Facts about a backbone, as plain JSON values; of an outline those of its config alone."""
    config = backbone.text_config
    facts: dict[str, Any] = {name: getattr(config, name, None) for name in _CONFIG_FIELDS}
    facts["name"] = _public_name(backbone.name)
    facts["revision"] = backbone.revision
    if backbone.embedding.weight.is_meta:
        return facts
    layer = backbone.layers[max(branch - 1, 0)]
    facts["norm_weights"] = _channels(part(layer, "input_layernorm").weight)
    query = getattr(part(layer, "self_attn"), "q_proj", None)
    if query is not None and query.weight.is_floating_point():  # else fused, or quantized
        facts["attention_weights"] = _channels(query.weight[0])
    facts["embedding_weights"] = _channels(backbone.embedding.weight[_EMBEDDING_ROW])
    return facts


def check_identity(facts: Mapping[str, Any], where: str) -> None:
    """Refuse facts that cannot tell a backbone from others, since some were removed or edited.

    Args:
        facts: those of a file, which :func:`backbone_identity` gave of a model with weights.
        where: the file, for messages.

    Raises:
        ConfigError: names the first fact that is missing or of another kind.
    """
    for name in (*_CONFIG_FIELDS, *_ALWAYS_THERE):
        if name not in facts:
            raise ConfigError(f"{where}: does not say which backbone it belongs to: no {name}")
    for name in _WEIGHTS:
        if name in facts and not _are_numbers(facts[name]):
            raise ConfigError(
                f"{where}: {name} of its backbone must be a list of up to {_N_CHANNELS} numbers"
            )
    for name in _CONFIG_FIELDS:
        if type(facts[name]) not in (int, str, type(None)):
            raise ConfigError(f"{where}: {name} of its backbone must be a number or a name")


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, in words; name and revision may."""
    report = [
        f"{name} is {found.get(name)}, expected {expected[name]}"
        for name in _CONFIG_FIELDS
        if name in expected and expected[name] != found.get(name)
    ]
    if report:
        return report
    return [
        f"{name.replace('_', ' ')} differ (first: {found[name][0]:.4g}, expected "
        f"{expected[name][0]:.4g}), so the weights are not those it was trained on "
        f"({expected.get('name')})"
        for name in _WEIGHTS
        if name in expected and name in found and not _close(expected[name], found[name])
    ]


def _public_name(name: str) -> str:
    """A hub id as it is, of a local folder only the last part: the rest says nothing elsewhere."""
    return Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name


def _are_numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and 0 < len(values) <= _N_CHANNELS
        and all(type(value) in (int, float) and abs(value) < float("inf") for value in values)
    )


def _channels(weight: Any) -> list[float]:
    return [round(value, 6) for value in weight[:_N_CHANNELS].float().tolist()]


def _close(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(
        abs(x - y) <= _ABSOLUTE_TOLERANCE + _RELATIVE_TOLERANCE * abs(x)
        for x, y in zip(a, b, strict=True)
    )

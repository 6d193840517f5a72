"""RPNConfig: what an RPN is made of, what it was trained for, and on which backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sdrpn_core.errors import CheckpointError, ConfigError
from sdrpn_core.gate.config import GateConfig, check_threshold
from sdrpn_core.util.dataclass_reader import read_dataclass

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.preset import Preset
    from sdrpn_core.crops.policy import CropPolicy

#: Version of the checkpoint layout; raised when an old file can no longer be read as is.
FORMAT_VERSION = 1

DEFAULT_HEAD = "qk"
LOSSES = ("bce", "focal", "mse")


@dataclass(frozen=True)
class RPNConfig:
    """Configuration of an RPN, saved as ``config.json`` beside its weights.

    Attributes:
        branch: B, the RPN reads the hidden states that leave decoder layer B - 1.
        n_layers: R, the decoder layers B .. B + R - 1 that it starts as copies of.
        head: registered name of the head.
        head_options: the head's options, by field.
        final_norm: apply a copy of the decoder's final norm before the head.
        loss: ``bce``, ``focal`` or ``mse``. With ``mse`` the map is a distribution over the visual
            tokens, otherwise logits.
        policy: crop policy that the RPN's thresholds were chosen for.
        policy_options: its options.
        recipe: the label recipe that it was trained with, as a dict; ``None`` if unknown. After
            training on several label runs, that of the first.
        gate: of the gate that says which questions need a region; ``None`` if there is none.
        backbone: facts about the backbone that must agree when attaching (see ``identity.py``).
        versions: package versions that wrote the checkpoint.
        format_version: version of the checkpoint layout.

    Raises:
        ConfigError: a value is out of range.
    """

    branch: int
    n_layers: int
    head: str = DEFAULT_HEAD
    head_options: Mapping[str, Any] = field(default_factory=dict)
    final_norm: bool = False
    loss: str = "bce"
    policy: str = "bbox"
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    gate: GateConfig | None = None
    backbone: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.branch < 0:
            raise ConfigError(f"branch must be 0 or more, not {self.branch}")
        if self.n_layers < 1:
            raise ConfigError(f"n_layers must be 1 or more, not {self.n_layers}")
        if self.loss not in LOSSES:
            raise ConfigError(f"unknown loss {self.loss!r}; known: {', '.join(LOSSES)}")

    @property
    def is_distribution(self) -> bool:
        """Whether RoI maps are distributions over the visual tokens rather than logits."""
        return self.loss == "mse"

    @classmethod
    def from_preset(cls, preset: Preset, **overrides: Any) -> RPNConfig:
        """The configuration that a preset asks for, some fields replaced.

        Single head options are replaced as well; another head starts from its own defaults.
        """
        values: dict[str, Any] = {
            "head": DEFAULT_HEAD,
            "branch": preset.branch,
            "n_layers": preset.n_layers,
            "policy": preset.policy,
            "policy_options": dict(preset.policy_options),
            **preset.rpn,
        }
        same_head = overrides.get("head", values["head"]) == values["head"]
        head_options = values.get("head_options", {}) if same_head else {}
        values |= overrides
        values["head_options"] = {**head_options, **overrides.get("head_options", {})}
        return cls.from_dict(values)

    @classmethod
    def for_backbone(cls, backbone: Backbone, **overrides: Any) -> RPNConfig:
        """From the backbone's preset; without one, ``branch`` and ``n_layers`` must be given.

        Raises:
            ConfigError: they are needed and missing, or unknown fields.
        """
        if {"branch", "n_layers"} <= overrides.keys() and backbone.find_preset() is None:
            return cls.from_dict(overrides)
        return cls.from_preset(backbone.preset, **overrides)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RPNConfig:
        """Build from plain values.

        Raises:
            ConfigError: unknown or missing fields, values of the wrong type or out of range.
        """
        return read_dataclass(cls, values, "RPN settings")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> RPNConfig:
        """Build from a checkpoint's ``config.json``.

        Raises:
            CheckpointError: written by a newer layout, not an RPN configuration, or without the
                facts that tell its backbone from others.
        """
        version = values.get("format_version")
        if version is None and isinstance(values.get("model_type"), str):
            raise CheckpointError(
                f"{where}: holds a model ({values['model_type']}), not an RPN; a model and its RPN "
                "are given apart"
            )
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{where}: RPN format version is {version!r}, this sdrpn reads {FORMAT_VERSION}: "
                "upgrade sdrpn, or check that the folder holds an RPN"
            )
        from sdrpn_core.backbone.identity import check_identity  # needs torch

        try:
            config = cls.from_dict(values)
        except ConfigError as error:
            raise CheckpointError(f"{where}: {error}") from error
        try:
            check_identity(config.backbone, where)
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        return config

    def crop_policy(
        self, policy: str | CropPolicy | None = None, options: Mapping[str, Any] | None = None
    ) -> CropPolicy:
        """The crop policy that the thresholds were chosen for, or another one.

        Args:
            policy: name of another policy, which starts from its own defaults, or a policy, which
                stays as it is; default: the one named here.
            options: options to replace, of a policy that is named.

        Raises:
            UnknownNameError: no policy of that name.
            ConfigError: not a policy, options that are not a mapping or given along with a policy,
                or one that is unknown or out of range.
        """
        from sdrpn_core.crops.policy import as_policy, make_policy  # needs NumPy

        if options is not None and not isinstance(options, Mapping):
            raise ConfigError(
                f"policy options must be a mapping, such as {{'threshold': 0.2}}, not {options!r}"
            )
        if policy is not None and not isinstance(policy, str):
            policy = as_policy(policy)
            if options:
                raise ConfigError(
                    f"policy options ({', '.join(options)}) along with a {type(policy).__name__}, "
                    "which has its own: give its name instead, or make it with these options"
                )
            return policy
        own = self.policy_options if policy is None or policy == self.policy else {}
        return make_policy(self.policy if policy is None else policy, {**own, **(options or {})})

    def gate_threshold(self, threshold: float | None = None) -> float:
        """From which probability on the region is looked for; 0 asks no gate.

        Args:
            threshold: another one than the gate's own.

        Raises:
            ConfigError: it is no probability, or above 0 where there is no gate.
        """
        own = 0.0 if self.gate is None else self.gate.threshold
        chosen = own if threshold is None else threshold
        check_threshold(chosen)
        if self.gate is None and chosen > 0:
            raise ConfigError(
                f"a gate threshold of {chosen} is given, but this RPN has no gate: leave it out, "
                "or train one"
            )
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

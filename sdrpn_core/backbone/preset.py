"""Presets: the numbers that a known backbone needs, chosen by its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdrpn_core.errors import ConfigError
from sdrpn_core.labels.recipe import LabelRecipe


@dataclass(frozen=True)
class Preset:
    """Everything about a backbone that was found by experiment rather than read from its config.

    Attributes:
        name: unique, for messages and provenance.
        match: dotted config fields and the values they must have, e.g.
            ``{"text_config.num_hidden_layers": 32}``. Paths and hub ids are never looked at.
        branch: B, the RPN reads the hidden states that leave decoder layer B - 1.
        n_layers: R, the number of RPN layers.
        recipes: label recipes by name; the first is the default. None: the model's grounding heads
            are not known yet.
        rpn: other fields of :class:`~sdrpn_core.rpn.config.RPNConfig` (head, its options, loss,
            norm).
        policy: crop policy name.
        policy_options: fields of that policy.
        training: fields of the training settings that the preset sets (learning rate, betas, ...).
        source: where the numbers come from.
    """

    name: str
    match: Mapping[str, Any]
    branch: int
    n_layers: int
    recipes: Mapping[str, LabelRecipe] = field(default_factory=dict)
    rpn: Mapping[str, Any] = field(default_factory=dict)
    policy: str = "bbox"
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def matches(self, config: Any) -> bool:
        """Whether a model config has every value of ``match``."""
        return all(_lookup(config, path) == value for path, value in self.match.items())

    def check_fits(self, n_layers: int, n_heads: int) -> None:
        """Refuse a decoder that lacks a layer or head which the preset names.

        Args:
            n_layers: L.
            n_heads: attention heads per layer.

        Raises:
            ConfigError: names the preset, and what does not exist.
        """
        last = self.branch + self.n_layers - 1
        if last >= n_layers:
            raise ConfigError(
                f"preset {self.name!r}: an RPN at branch layer {self.branch} with {self.n_layers} "
                f"layers reaches layer {last}, but the decoder has layers 0 to {n_layers - 1}"
            )
        for name, recipe in self.recipes.items():
            try:
                recipe.check_fits(n_layers, n_heads)
            except ConfigError as error:
                raise ConfigError(f"preset {self.name!r}, recipe {name!r}: {error}") from error

    def recipe(self, name: str | None = None) -> LabelRecipe:
        """A label recipe by name (default: the first).

        Raises:
            ConfigError: the preset has no recipe of that name, or none at all.
        """
        if not self.recipes:
            raise ConfigError(
                f"preset {self.name!r} has no label recipe: which heads of the model ground is not "
                "known yet; find them with `sdrpn heads` and pass the recipe file that it writes"
            )
        if name is None:
            return next(iter(self.recipes.values()))
        if name not in self.recipes:
            raise ConfigError(
                f"preset {self.name!r} has no label recipe {name!r}; "
                f"it has: {', '.join(self.recipes)}"
            )
        return self.recipes[name]


def _lookup(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = getattr(config, part, None)
    return config

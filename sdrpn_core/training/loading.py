"""What a training run starts from: the layers that it needs, settings, a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.backbone.loading import load_for_process, load_outline
from sdrpn_core.backbone.recipe_option import read_recipe
from sdrpn_core.rpn.config import RPNConfig
from sdrpn_core.training.settings import TrainingSettings

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.labels.recipe import LabelRecipe
    from sdrpn_core.training.continued import ContinuedObjective

__all__ = ["TrainingInputs", "layers_to_load", "load_for_training", "load_to_continue"]


@dataclass(frozen=True, eq=False)
class TrainingInputs:
    """What :func:`~sdrpn_core.training.stage.train` takes, besides the data and the folder.

    Attributes:
        backbone: the frozen model; of its decoder only the layers that training needs are there.
        settings: of the run.
        config: of the RPN.
        recipe: the label recipe that was asked for; ``None``: that of the data or the preset.
        recipe_options: fields that it is to have, whichever it is.
    """

    backbone: Backbone
    settings: TrainingSettings
    config: RPNConfig
    recipe: LabelRecipe | None
    recipe_options: Mapping[str, Any] = field(default_factory=dict)


def load_for_training(
    model: str | Path,
    *,
    recipe: str | Path | None = None,
    recipe_options: Mapping[str, Any] | None = None,
    lazy: bool = False,
    settings: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    **load_options: Any,
) -> TrainingInputs:
    """Load as much of a backbone as training needs, and choose settings and configuration.

    What is not given comes from the recipe file, then from the backbone's preset, then from the
    defaults. All of it is checked against the model's config before any weight is read. Under
    ``accelerate launch`` every process loads on its own device.

    Args:
        model: local folder or hub id.
        recipe: name of a label recipe in the backbone's preset, or a JSON file, such as
            ``sdrpn heads`` writes, which also says B and R.
        recipe_options: fields that the recipe is to have, whichever it is, as plain JSON values.
        lazy: labels are made while training, from records with responses; needs the layers that
            the recipe reads.
        settings: fields of :class:`~sdrpn_core.training.settings.TrainingSettings`.
        config: fields of :class:`~sdrpn_core.rpn.config.RPNConfig`.
        load_options: arguments of :func:`~sdrpn_core.backbone.loading.load_backbone`: ``dtype``,
            ``device``, ``attn_implementation``, ``revision`` ...

    Raises:
        InputError: no model there, or its files are broken or incomplete.
        ConfigError: unknown or impossible fields, no such recipe or one of another backbone, or no
            preset and not all that it would say.
    """
    name = str(model)
    recipe_name = None if recipe is None else str(recipe)
    outline = load_outline(name, revision=load_options.get("revision"))
    chosen = TrainingSettings.for_backbone(outline, **(settings or {}))
    planned = read_recipe(recipe_name, outline)
    rpn = RPNConfig.for_backbone(outline, **{**planned.shape, **(config or {})})
    options = dict(recipe_options or {})
    read = (planned.recipe or outline.preset.recipe()).with_options(options) if lazy else None
    backbone = load_for_process(name, {**load_options, "n_layers": layers_to_load(rpn, read)})
    # The recipe is read again: now there are weights to check it against.
    named = read_recipe(recipe_name, backbone).recipe
    return TrainingInputs(backbone, chosen, rpn, named, options)


def load_to_continue(
    model: str | Path,
    objective: ContinuedObjective,
    *,
    settings: Mapping[str, Any] | None = None,
    **load_options: Any,
) -> tuple[Backbone, TrainingSettings]:
    """Load as much of a backbone as it takes to go on from a trained RPN, and choose settings.

    Settings that are not given are the objective's defaults, then those of the backbone's preset.
    Under ``accelerate launch`` every process loads on its own device.

    Args:
        model: local folder or hub id.
        objective: what is trained.
        settings: fields of :class:`~sdrpn_core.training.settings.TrainingSettings`.
        load_options: arguments of :func:`~sdrpn_core.backbone.loading.load_backbone`.

    Raises:
        InputError: no model there, or its files are broken or incomplete.
        ConfigError: unknown or impossible settings, or the model has too few layers.
    """
    name = str(model)
    outline = load_outline(name, revision=load_options.get("revision"))
    chosen = objective.settings(outline, **(settings or {}))
    n_layers = objective.n_layers_to_load
    return load_for_process(name, {**load_options, "n_layers": n_layers}), chosen


def layers_to_load(config: RPNConfig, recipe: LabelRecipe | None = None) -> int:
    """How many decoder layers training needs: the ``n_layers`` of ``load_backbone``.

    Those that the features pass through, those that the RPN starts as copies of, and those whose
    attention is read, if labels are made while training.

    Args:
        config: of the RPN.
        recipe: how labels are made while training; ``None`` for stored ones.
    """
    read = max(recipe.layers) + 1 if recipe else 0
    return max(config.branch + config.n_layers, read)

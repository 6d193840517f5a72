"""The label recipe that a user names: one of the backbone's preset, or a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sdrpn_core.backbone.recipe_file import RecipeFile
from sdrpn_core.errors import ConfigError
from sdrpn_core.labels.recipe import LabelRecipe

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone

__all__ = ["RecipeChoice", "read_recipe"]


@dataclass(frozen=True)
class RecipeChoice:
    """What the option ``--recipe`` names.

    Attributes:
        recipe: the label recipe; ``None`` if the option was not given.
        shape: ``branch`` and ``n_layers``, where the file says them.
    """

    recipe: LabelRecipe | None = None
    shape: dict[str, int] = field(default_factory=dict)


def read_recipe(text: str | None, backbone: Backbone) -> RecipeChoice:
    """A label recipe by its name in the backbone's preset, or from a JSON file.

    A file is what ``sdrpn heads`` wrote, or a bare label recipe.

    Raises:
        ConfigError: there is no such recipe or file, it is no recipe, or another backbone's.
    """
    if text is None:
        return RecipeChoice()
    path = Path(text)
    if path.suffix != ".json":
        return RecipeChoice(backbone.preset.recipe(text))
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the label recipe {path}: {error}") from error
    try:
        if not RecipeFile.recognizes(content):
            recipe = LabelRecipe.from_json(content)
            recipe.check_fits(backbone.n_layers, backbone.n_heads)
            return RecipeChoice(recipe)
        found = RecipeFile.from_json(content)
        found.check_fits(backbone)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return RecipeChoice(found.recipe, {"branch": found.branch, "n_layers": found.n_layers})

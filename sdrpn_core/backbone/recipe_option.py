"""The label recipe that a user names: one of the backbone's preset, or a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.backbone.recipe_file import RecipeFile
from sdrpn_core.errors import ConfigError
from sdrpn_core.labels.recipe import LabelRecipe

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone

__all__ = ["GivenRecipe", "RecipeChoice", "read_recipe"]


@dataclass(frozen=True)
class RecipeChoice:
    """What the option ``--recipe`` names.

    Attributes:
        recipe: the label recipe; ``None`` if the option was not given.
        shape: ``branch`` and ``n_layers``, where the file says them.
    """

    recipe: LabelRecipe | None = None
    shape: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class GivenRecipe:
    """What an option for a recipe says, as far as it can be read without the backbone.

    Attributes:
        text: the option's value: a name in the backbone's preset, or a JSON file.
        content: of the file; ``None`` for a name.
    """

    text: str
    content: RecipeFile | LabelRecipe | None = None

    @classmethod
    def read(cls, text: str) -> GivenRecipe:
        """Read the file that is named, if it is one: what ``sdrpn heads`` wrote, or a bare recipe.

        Raises:
            ConfigError: there is no such file, or it is no recipe.
        """
        path = Path(text)
        if path.suffix != ".json":
            return cls(text)
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the label recipe {path}: {error}") from error
        try:
            if RecipeFile.recognizes(content):
                return cls(text, RecipeFile.from_json(content))
            return cls(text, LabelRecipe.from_json(content))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def choice(self, backbone: Backbone) -> RecipeChoice:
        """The recipe for a backbone.

        Raises:
            ConfigError: its preset has no recipe of that name, or the file is another backbone's.
        """
        content = self.content
        if content is None:
            return RecipeChoice(backbone.preset.recipe(self.text))
        try:
            if isinstance(content, LabelRecipe):
                content.check_fits(backbone.n_layers, backbone.n_heads)
                return RecipeChoice(content)
            content.check_fits(backbone)
        except ConfigError as error:
            raise ConfigError(f"{Path(self.text)}: {error}") from error
        return RecipeChoice(
            content.recipe, {"branch": content.branch, "n_layers": content.n_layers}
        )

    def to_value(self) -> str | dict[str, Any]:
        """The name, or the label recipe of the file as plain JSON values, wherever it lies."""
        content = self.content
        if content is None:
            return self.text
        recipe = content if isinstance(content, LabelRecipe) else content.recipe
        return recipe.to_dict()


def read_recipe(text: str | None, backbone: Backbone) -> RecipeChoice:
    """A label recipe by its name in the backbone's preset, or from a JSON file.

    A file is what ``sdrpn heads`` wrote, or a bare label recipe.

    Raises:
        ConfigError: there is no such recipe or file, it is no recipe, or another backbone's.
    """
    return RecipeChoice() if text is None else GivenRecipe.read(text).choice(backbone)

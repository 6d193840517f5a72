"""What ``label`` and ``train`` share: a backbone in this process, a recipe, records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from sdrpn_core.backbone import Backbone
    from sdrpn_core.labels import LabelRecipe

__all__ = ["is_main_process", "load_here", "read_recipe"]


def load_here(model: str, options: dict[str, Any]) -> Backbone:
    """Load a model where this process is to run it: each on a device of its own.

    Args:
        model: local folder or hub id.
        options: arguments of ``load_backbone``.
    """
    from sdrpn_core.loading import load_backbone
    from sdrpn_core.processes import processes

    state = processes(options.get("device"))
    return load_backbone(model, **{"device": str(state.device), **options})


def is_main_process() -> bool:
    """Whether this is the process that prints."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def read_recipe(text: str | None, backbone: Backbone) -> LabelRecipe | None:
    """A label recipe by its name in the backbone's preset, or from a JSON file.

    Raises:
        ConfigError: there is no such recipe or file, or it is no recipe.
    """
    from sdrpn_core.labels import LabelRecipe

    if text is None:
        return None
    path = Path(text)
    if path.suffix != ".json":
        return backbone.preset.recipe(text)
    try:
        return LabelRecipe.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the label recipe {path}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error

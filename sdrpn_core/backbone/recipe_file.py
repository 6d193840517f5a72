"""The recipe file: what ``sdrpn heads`` writes, and ``sdrpn label`` and ``sdrpn train`` read.

It is to one backbone what a preset is to a family: a label recipe and the RPN's place. It says
which backbone it was made for, and how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.errors import ConfigError
from sdrpn_core.labels.recipe import LabelRecipe
from sdrpn_core.util.atomic_files import remove_leftovers
from sdrpn_core.util.dataclass_reader import read_dataclass
from sdrpn_core.util.json_files import parse_json_object, write_json

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone

__all__ = ["FORMAT_VERSION", "RecipeFile"]

#: Version of the layout; raised when an old file can no longer be read as is.
FORMAT_VERSION = 1


@dataclass(frozen=True)
class RecipeFile:
    """A label recipe for one backbone, with the RPN's place.

    Attributes:
        recipe: which heads are read, and the numbers of the labeling.
        branch: B, the RPN reads the hidden states that leave decoder layer B - 1.
        n_layers: R, the number of RPN layers.
        backbone: facts that must agree with the backbone it is used on (see
            :mod:`sdrpn_core.backbone.identity`).
        provenance: how it was made, as plain JSON values.

    Raises:
        ConfigError: a negative branch, or no layer.
    """

    recipe: LabelRecipe
    branch: int
    n_layers: int
    backbone: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.branch < 0 or self.n_layers < 1:
            raise ConfigError(
                "recipe file: needs a branch of 0 or more and 1 or more layers, not branch "
                f"{self.branch} and n_layers {self.n_layers}"
            )

    @staticmethod
    def recognizes(text: str) -> bool:
        """Whether a text is the JSON of a recipe file, sound or not, rather than a bare recipe."""
        try:
            return "recipe" in parse_json_object(text, "recipe file")
        except ConfigError:
            return False

    @classmethod
    def from_json(cls, text: str) -> RecipeFile:
        """The content of a file that :meth:`write` wrote.

        Raises:
            ConfigError: not a JSON object, or see :meth:`from_dict`.
        """
        return cls.from_dict(parse_json_object(text, "recipe file"))

    def write(self, path: str | Path) -> None:
        """Write the file, atomically.

        Raises:
            SdrpnError: it cannot be written.
        """
        path = Path(path)
        write_json(path, self.to_dict())
        remove_leftovers(path)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RecipeFile:
        """The file's content from what :meth:`to_dict` gives.

        Raises:
            ConfigError: another layout, missing fields, or an impossible recipe.
        """
        if "recipe" not in values:
            raise ConfigError("not a recipe file: it has no field recipe")
        own = dict(values)
        version = own.pop("format_version", None)
        if type(version) is not int or version != FORMAT_VERSION:
            raise ConfigError(
                f"recipe file version is {version!r}, this sdrpn reads {FORMAT_VERSION}: "
                "upgrade sdrpn, or run `sdrpn heads` again"
            )
        return read_dataclass(cls, own, "recipe file")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            "recipe": self.recipe.to_dict(),
            "branch": self.branch,
            "n_layers": self.n_layers,
            "backbone": dict(self.backbone),
            "provenance": dict(self.provenance),
        }

    def check_fits(self, backbone: Backbone) -> None:
        """Refuse a backbone that the recipe was not made for.

        Raises:
            ConfigError: says what differs, or which layer or head does not exist.
        """
        # Facts that read weights need torch, which reading a recipe does not.
        from sdrpn_core.backbone.identity import backbone_identity, check_identity, differences

        check_identity(self.backbone, "recipe file")
        different = differences(self.backbone, backbone_identity(backbone, branch=0))
        if different:
            raise ConfigError(
                f"the recipe was made for another backbone ({self.backbone.get('name')}) than "
                f"{backbone.name}: {'; '.join(different)}"
            )
        last = self.branch + self.n_layers - 1
        if last >= backbone.n_layers:
            raise ConfigError(
                f"recipe file: an RPN at branch layer {self.branch} with {self.n_layers} layers "
                f"reaches layer {last}, but the decoder has layers 0 to {backbone.n_layers - 1}"
            )
        self.recipe.check_fits(backbone.n_layers, backbone.n_heads)

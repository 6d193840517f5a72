"""What finding heads arrived at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.backbone.recipe_file import RecipeFile
from sdrpn_core.head_finding.samples import SkippedRecord
from sdrpn_core.util.wilson import wilson

if TYPE_CHECKING:
    from sdrpn_core.head_finding.statistics import HeadTable
    from sdrpn_core.labels.recipe import LabelRecipe


@dataclass(frozen=True)
class HeadScore:
    """One head's measures over all samples.

    Attributes:
        layer, head: which one.
        pointing: how often its highest cell lies in a box.
        interval: 95% interval of ``pointing`` (Wilson). The best of many heads is better by luck
            than this says; :class:`JointScore` is not.
        auc: probability that a cell in a box is higher than one outside.
        mass: share of the attention that goes to the image.
        peak: share of the attention to the image that its highest cell has.
        sink: the highest mean share of one and the same cell.
    """

    layer: int
    head: int
    pointing: float
    interval: tuple[float, float]
    auc: float
    mass: float
    peak: float
    sink: float


@dataclass(frozen=True)
class JointScore:
    """The chosen heads together, sinks dropped, on the confirming half of the samples.

    Attributes:
        n: samples of that half.
        pointing: how often the highest cell of the mean map lies in a box.
        interval: 95% interval of ``pointing`` (Wilson).
        auc: probability that a cell in a box is higher than one outside.
        labeled: share of the samples that the recipe gives labels.
        precision: of their foreground cells, the share that lies in a box; ``None`` without any.
    """

    n: int
    pointing: float
    interval: tuple[float, float]
    auc: float
    labeled: float
    precision: float | None


@dataclass(frozen=True, eq=False)
class HeadReport:
    """The chosen recipe, and what it was chosen from.

    Attributes:
        recipe: the label recipe.
        branch: B.
        n_layers: R.
        joint: how the recipe does.
        chance: how often a random cell lies in a box.
        table: means of every head, for the response rows that the recipe reads.
        n: samples that were measured.
        skipped: records that could not be.
        backbone: identity of the backbone.
        provenance: data, settings and versions, as plain JSON values.
    """

    recipe: LabelRecipe
    branch: int
    n_layers: int
    joint: JointScore
    chance: float
    table: HeadTable
    n: int
    skipped: tuple[SkippedRecord, ...]
    backbone: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def better_than_chance(self) -> bool:
        """Whether the chosen heads point at boxes more often than random cells would."""
        return self.joint.interval[0] > self.chance

    @property
    def scores(self) -> tuple[HeadScore, ...]:
        """All heads, by pointing and AUC in equal parts, best first."""
        table = self.table
        order = (-table.quality).argsort(axis=None, kind="stable")
        heads = [divmod(int(place), table.quality.shape[1]) for place in order]
        return tuple(self._score(layer, head) for layer, head in heads)

    @property
    def recipe_file(self) -> RecipeFile:
        """What ``sdrpn label`` and ``sdrpn train`` read."""
        values = self.to_dict()
        scores = {name: values[name] for name in ("n", "skipped", "chance", "joint", "heads")}
        return RecipeFile(
            recipe=self.recipe,
            branch=self.branch,
            n_layers=self.n_layers,
            backbone=self.backbone,
            provenance={**self.provenance, "scores": scores},
        )

    def save(self, path: str | Path) -> None:
        """Write :attr:`recipe_file`, atomically.

        Raises:
            SdrpnError: it cannot be written.
        """
        self.recipe_file.write(path)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; of the heads, the chosen ones."""
        return {
            "recipe": self.recipe.to_dict(),
            "branch": self.branch,
            "n_layers": self.n_layers,
            "better_than_chance": self.better_than_chance,
            "chance": self.chance,
            "joint": asdict(self.joint),
            "heads": [
                {**asdict(score), "role": self.role(score)}
                for score in self.scores
                if self.role(score)
            ],
            "n": self.n,
            "skipped": [asdict(record) for record in self.skipped],
            **self.provenance,
        }

    def role(self, score: HeadScore) -> str:
        """What a head was chosen as: ``"grounding"``, ``"sink"``, or ``""``."""
        if score.head in self.recipe.grounding.get(score.layer, ()):
            return "grounding"
        return "sink" if score.head in self.recipe.sink.get(score.layer, ()) else ""

    def _score(self, layer: int, head: int) -> HeadScore:
        pointing = float(self.table.pointing[layer, head])
        return HeadScore(
            layer=layer,
            head=head,
            pointing=pointing,
            interval=wilson(min(pointing * self.n, self.n), self.n),
            auc=float(self.table.auc[layer, head]),
            mass=float(self.table.mass[layer, head]),
            peak=float(self.table.peak[layer, head]),
            sink=float(self.table.sink[layer, head]),
        )

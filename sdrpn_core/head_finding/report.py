"""What finding heads arrived at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdrpn_core.backbone.recipe_file import RecipeFile
from sdrpn_core.head_finding.samples import SkippedRecord
from sdrpn_core.labels.pseudo import LabelOutcome
from sdrpn_core.util.wilson import wilson

if TYPE_CHECKING:
    from sdrpn_core.head_finding.label_trial import LabelTrial
    from sdrpn_core.head_finding.question_effect import QuestionEffect
    from sdrpn_core.head_finding.statistics import HeadTable
    from sdrpn_core.labels.recipe import LabelRecipe

#: Level of the test whether the chosen heads follow the question.
SIGNIFICANCE = 0.01
#: Gain in quality (0 to 1) by the question, below which heads are of no use however certain it is.
MIN_QUESTION_GAIN = 0.05

#: What a recipe file keeps of the report.
_SCORES = ("n", "skipped", "chance", "joint", "question_effect", "labels", "heads")


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
    """

    n: int
    pointing: float
    interval: tuple[float, float]
    auc: float


@dataclass(frozen=True, eq=False)
class HeadReport:
    """The chosen recipe, and what it was chosen from.

    Attributes:
        recipe: the label recipe.
        branch: B.
        n_layers: R.
        joint: how the recipe does.
        question_effect: how much of that is owed to the question.
        labels: what the recipe labels.
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
    question_effect: QuestionEffect
    labels: LabelTrial
    chance: float
    table: HeadTable
    n: int
    skipped: tuple[SkippedRecord, ...]
    backbone: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def better_than_chance(self) -> bool:
        """Whether the question directs the chosen heads to the boxes.

        Attention to whatever stands out in an image is chance: it does not depend on the question.
        """
        effect = self.question_effect
        return effect.p_value <= SIGNIFICANCE and effect.gain >= MIN_QUESTION_GAIN

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why labels made with the recipe would be of no use, and what to change; mostly empty."""
        found = []
        if not self.better_than_chance:
            found.append(self._chance_warning())
        if self.labels.is_sparse:
            found.append(self._labels_warning())
        return tuple(found)

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
        scores = {name: values[name] for name in _SCORES}
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
            "question_effect": asdict(self.question_effect),
            "labels": asdict(self.labels),
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

    def _chance_warning(self) -> str:
        effect = self.question_effect
        if effect.pointing is None:
            return (
                "no two records ask different questions, so nothing shows that the chosen heads "
                "follow the question: use records that ask for different things"
            )
        return (
            f"the chosen heads follow the question no better than chance (pointing "
            f"{self.joint.pointing:.1%}, with another record's question {effect.pointing:.1%}; "
            f"p = {effect.p_value:.2g}, n = {effect.n}): labels made with them would be noise; use "
            "more records, or questions whose answer depends on a single region"
        )

    def _labels_warning(self) -> str:
        trial, recipe = self.labels, self.recipe
        reason = {
            LabelOutcome.NO_FOREGROUND: "nothing is left of the map once sinks are removed",
            LabelOutcome.WEAK: f"the highest cell is below min_peak = {recipe.min_peak:g}",
            LabelOutcome.BOX_TOO_LARGE: (
                f"the cells above foreground = {recipe.foreground:g} of the maximum spread over "
                f"max_box_fraction = {recipe.max_box_fraction:g} of the grid or more"
            ),
        }[trial.main_obstacle]
        remedy = trial.remedy
        advice = (
            "no single recipe option would label half of them: use other records, or another model"
            if remedy is None
            else f"with the recipe option {remedy.name}={json.dumps(remedy.value)}, "
            f"{remedy.labeled:.1%} would be"
        )
        return f"only {trial.labeled:.1%} of the samples are labeled, mostly as {reason}; {advice}"

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

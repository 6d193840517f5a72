"""What labels a recipe makes of the calibration samples, and what to change if it makes none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sdrpn_core.head_finding.candidates import CandidateMaps, Map
from sdrpn_core.head_finding.samples import Target
from sdrpn_core.head_finding.selection import CONFIRM, Selection
from sdrpn_core.labels.pseudo import FOREGROUND, LabelOutcome, PseudoLabeler
from sdrpn_core.labels.recipe import LabelRecipe

MakeLabeler = Callable[[LabelRecipe], PseudoLabeler]

#: Share of labeled samples below which a recipe needs a change.
MIN_LABELED = 0.1
#: Share of labeled samples from which a change is worth proposing.
MIN_REMEDIED = 0.5

#: Boxes too large: values of ``foreground`` to try, before ``smoothing`` and ``max_box_fraction``.
_FOREGROUNDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: Maps too weak: shares of ``min_peak`` to try.
_PEAK_SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0)


@dataclass(frozen=True)
class Remedy:
    """One other value of a recipe field, and what it would do.

    Attributes:
        name: of the field.
        value: of the field.
        labeled: share of the samples that would be labeled.
    """

    name: str
    value: Any
    labeled: float


@dataclass(frozen=True)
class LabelTrial:
    """What the recipe makes of the confirming half.

    Attributes:
        outcomes: samples by :class:`~sdrpn_core.labels.pseudo.LabelOutcome`, as its value.
        labeled: share of the samples that have labels.
        precision: of their foreground cells, the share that lies in a box; ``None`` without any.
        remedy: where few samples are labeled, the smallest change of one field under which at least
            half are; ``None`` where none is needed, or none was found.
    """

    outcomes: dict[str, int]
    labeled: float
    precision: float | None
    remedy: Remedy | None = None

    @property
    def is_sparse(self) -> bool:
        """Whether training would have next to nothing to learn from."""
        return self.labeled < MIN_LABELED

    @property
    def main_obstacle(self) -> LabelOutcome:
        """Why most of the samples without labels have none."""
        failed = Counter(self.outcomes)
        del failed[LabelOutcome.OK.value]
        return LabelOutcome(failed.most_common(1)[0][0])


def try_labels(
    maps: CandidateMaps, chosen: Selection, recipe: LabelRecipe, make_labeler: MakeLabeler
) -> LabelTrial:
    """Label the confirming half; where few samples get labels, look for a field to change.

    Args:
        maps: of the candidates.
        chosen: what the recipe reads.
        recipe: with these heads.
        make_labeler: the pseudo-labeler's class.
    """
    samples = list(_recipe_maps(maps, chosen))
    trial = _label(samples, make_labeler(recipe))
    if not trial.is_sparse:
        return trial
    for name, value in _changes(trial.main_obstacle, recipe):
        labeled = _label(samples, make_labeler(replace(recipe, **{name: value}))).labeled
        if labeled >= MIN_REMEDIED:
            return replace(trial, remedy=Remedy(name, value, labeled))
    return trial


def _label(samples: Sequence[tuple[Target, Map, Map | None]], labeler: PseudoLabeler) -> LabelTrial:
    outcomes: Counter[str] = Counter()
    shares = []
    for target, grounding, sink in samples:
        made = labeler(grounding, sink, target.geometry.content())
        outcomes[made.outcome.value] += 1
        if made.outcome is LabelOutcome.OK:
            shares.append(target.inside[made.labels.ravel() == FOREGROUND].mean())
    return LabelTrial(
        outcomes=dict(outcomes),
        labeled=len(shares) / len(samples),
        precision=float(np.mean(shares)) if shares else None,
    )


def _recipe_maps(
    maps: CandidateMaps, chosen: Selection
) -> Iterator[tuple[Target, Map, Map | None]]:
    grounding = maps.joint_maps(chosen.grounding, chosen.row_choice, CONFIRM)
    if not chosen.sinks.heads:
        for target, joint in grounding:
            yield target, joint, None
        return
    sinks = maps.joint_maps(chosen.sinks.heads, chosen.row_choice, CONFIRM)
    for (target, joint), (_, sink) in zip(grounding, sinks, strict=True):
        yield target, joint, sink


def _changes(obstacle: LabelOutcome, recipe: LabelRecipe) -> Iterator[tuple[str, Any]]:
    """Values that fight an obstacle, the smallest change first."""
    if obstacle is LabelOutcome.BOX_TOO_LARGE:
        yield from (("foreground", value) for value in _FOREGROUNDS if value > recipe.foreground)
        if not recipe.smoothing:
            yield "smoothing", True
        yield "max_box_fraction", 1.0
    elif obstacle is LabelOutcome.WEAK:
        yield from (("min_peak", recipe.min_peak * share) for share in _PEAK_SHARES)
    else:
        for name in ("smoothing", "padding_is_sink"):
            if getattr(recipe, name):
                yield name, False

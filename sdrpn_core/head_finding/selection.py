"""Which heads ground, which are sinks, which response rows count, and where to branch off.

One half of the samples chooses, the other confirms: a head joins a set only if it improves the set
on both. Otherwise hundreds of heads would compete on a few samples and luck would win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sdrpn_core.head_finding.candidates import (
    NO_SINKS,
    CandidateMaps,
    Head,
    JointScores,
    SinkChoice,
)
from sdrpn_core.head_finding.measures import Scores
from sdrpn_core.head_finding.statistics import ROW_CHOICES, HeadStatistics, HeadTable

CHOOSE, CONFIRM = 0, 1
"""The halves."""

#: Heads that may join the grounding set; the published sets have three to seven heads.
N_GROUNDING_CANDIDATES = 24
N_SINK_CANDIDATES = 8

#: Least improvement of quality (0 to 1) that pays for one more head.
MIN_GAIN = 0.005

#: A sink head's highest cell has so many times the attention of the average cell.
MIN_SINK_CONCENTRATION = 10.0
#: A sink head does not look at the box: by chance its AUC is 0.5.
MAX_SINK_AUC = 0.6
#: The published thresholds are 1e-3 and 1e-2.
SINK_THRESHOLDS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)

#: R in all published models.
PREFERRED_RPN_LAYERS = 3


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        row_choice: index into ``ROW_CHOICES``.
        grounding: heads in the order in which they were chosen.
        sinks: what is dropped from their map.
        confirmed: how they do, sinks dropped, on the half that did not choose.
    """

    row_choice: int
    grounding: tuple[Head, ...]
    sinks: SinkChoice
    confirmed: JointScores


def candidate_heads(statistics: HeadStatistics) -> tuple[Head, ...]:
    """The heads whose maps are worth keeping, ascending."""
    found: set[Head] = set()
    for row_choice in range(len(ROW_CHOICES)):
        table = statistics.table(row_choice, CHOOSE)
        found.update(_highest(table.quality, N_GROUNDING_CANDIDATES))
        found.update(_sink_candidates(table, statistics.grid))
    return tuple(sorted(found))


def select(statistics: HeadStatistics, maps: CandidateMaps, max_heads: int) -> Selection:
    """Choose heads, sinks and response rows.

    All response rows count, as published, unless the first ones alone are better by more than one
    standard error on the confirming half.

    Args:
        statistics: of all heads.
        maps: of :func:`candidate_heads`.
        max_heads: upper limit of the grounding set.
    """
    best, *others = (
        _select_for(statistics, maps, row_choice, max_heads)
        for row_choice in range(len(ROW_CHOICES))
    )
    for other in others:
        if _is_better(other.confirmed, best.confirmed):
            best = other
    return best


def choose_branch(maps: CandidateMaps, chosen: Selection, n_layers: int) -> tuple[int, int]:
    """B and R: right behind the first layer up to which the chosen heads already do all they can.

    That is the first layer whose heads, with those of earlier layers, are within one standard error
    of the whole set on the confirming half. The hidden states that leave it carry what the heads
    found, and every later layer would only cost time.

    Args:
        maps: of the candidates.
        chosen: the grounding set.
        n_layers: L.

    Returns:
        B, at most L - 1, and R, which is 3 or what L - B leaves of that.
    """
    deepest = max(layer for layer, _ in chosen.grounding)
    for layer in sorted({layer for layer, _ in chosen.grounding}):
        shallow = [head for head in chosen.grounding if head[0] <= layer]
        scores = maps.scores(shallow, chosen.row_choice, CONFIRM, chosen.sinks)
        if not _is_better(chosen.confirmed, scores):
            deepest = layer
            break
    branch = min(deepest + 1, n_layers - 1)
    return branch, min(PREFERRED_RPN_LAYERS, n_layers - branch)


def _select_for(
    statistics: HeadStatistics, maps: CandidateMaps, row_choice: int, max_heads: int
) -> Selection:
    table = statistics.table(row_choice, CHOOSE)
    grounding = _grow(maps, row_choice, _highest(table.quality, N_GROUNDING_CANDIDATES), max_heads)
    sinks = _find_sinks(maps, row_choice, grounding, _sink_candidates(table, statistics.grid))
    confirmed = maps.scores(grounding, row_choice, CONFIRM, sinks)
    return Selection(row_choice, grounding, sinks, confirmed)


def _highest(values: Scores, n: int) -> list[Head]:
    """The heads with the highest values, best first; the lower layer and head wins a tie."""
    order = np.argsort(-values, axis=None, kind="stable")[:n]
    layers, heads = np.unravel_index(order, values.shape)
    return list(zip(layers.tolist(), heads.tolist(), strict=True))


def _sink_candidates(table: HeadTable, grid: tuple[int, int]) -> list[Head]:
    """Heads that concentrate on few cells, but not on the boxes; most concentrated first."""
    uniform = 1 / (grid[0] * grid[1])
    suspicious = (table.peak >= MIN_SINK_CONCENTRATION * uniform) & (table.auc <= MAX_SINK_AUC)
    ranked = _highest(np.where(suspicious, table.peak, 0.0), N_SINK_CANDIDATES)
    return [head for head in ranked if suspicious[head]]


def _grow(
    maps: CandidateMaps, row_choice: int, candidates: Sequence[Head], max_heads: int
) -> tuple[Head, ...]:
    """Greedy forward selection, starting from the best single head."""
    chosen: tuple[Head, ...] = (candidates[0],)
    quality = [_quality(maps, chosen, row_choice, half) for half in (CHOOSE, CONFIRM)]
    while len(chosen) < max_heads:
        left = [head for head in candidates if head not in chosen]
        if not left:
            break
        longer = max(
            ((*chosen, head) for head in left),
            key=lambda heads: _quality(maps, heads, row_choice, CHOOSE),
        )
        improved = [_quality(maps, longer, row_choice, half) for half in (CHOOSE, CONFIRM)]
        if not _confirmed(quality, improved):
            break
        chosen, quality = longer, improved
    return chosen


def _find_sinks(
    maps: CandidateMaps, row_choice: int, grounding: Sequence[Head], candidates: Sequence[Head]
) -> SinkChoice:
    """Heads whose marks, when dropped, make the grounding map better; often there are none."""
    chosen = NO_SINKS
    quality = [_quality(maps, grounding, row_choice, half) for half in (CHOOSE, CONFIRM)]
    while len(chosen.heads) < len(candidates):
        more = [
            replace(chosen, heads=(*chosen.heads, head), threshold=threshold)
            for head in candidates
            if head not in chosen.heads
            for threshold in SINK_THRESHOLDS
        ]
        longer = max(more, key=lambda sinks: _quality(maps, grounding, row_choice, CHOOSE, sinks))
        improved = [
            _quality(maps, grounding, row_choice, half, longer) for half in (CHOOSE, CONFIRM)
        ]
        if not _confirmed(quality, improved):
            break
        chosen, quality = longer, improved
    return chosen


def _confirmed(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether a set improved where it was chosen, and also where it was not."""
    return after[CHOOSE] - before[CHOOSE] >= MIN_GAIN and after[CONFIRM] > before[CONFIRM]


def _quality(
    maps: CandidateMaps,
    heads: Sequence[Head],
    row_choice: int,
    half: int,
    sinks: SinkChoice = NO_SINKS,
) -> float:
    return float(maps.scores(heads, row_choice, half, sinks).quality.mean())


def _is_better(one: JointScores, other: JointScores) -> bool:
    """Whether the mean difference on the same samples exceeds its standard error."""
    differences = one.quality - other.quality
    if len(differences) < 2:
        return False
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return bool(differences.mean() > error)

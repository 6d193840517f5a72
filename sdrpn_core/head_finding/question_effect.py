"""Whether heads look at the box because of the question, or wherever the image draws attention.

Heads of a model with random weights point at boxes far more often than random cells: objects stand
out from a background whatever is asked. So the same heads are compared with themselves, on the same
images, while a question of another record is answered.

References:
    P. H. Westfall and S. S. Young, Resampling-Based Multiple Testing, Wiley 1993: the permutation
    distribution of the maximum holds for all hypotheses at once, whichever are picked afterwards.
    T. E. Nichols and A. P. Holmes, Nonparametric permutation tests for functional neuroimaging,
    Human Brain Mapping 15 (2002) 1-25: the same with paired differences, whose signs are flipped.
    B. Phipson and G. K. Smyth, Permutation p-values should never be zero, Stat. Appl. Genet. Mol.
    Biol. 9 (2010) 39: the observed data count as one of the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdrpn_core.head_finding.candidates import CandidateMaps
from sdrpn_core.head_finding.measures import Scores
from sdrpn_core.head_finding.selection import CONFIRM, Selection
from sdrpn_core.head_finding.statistics import ROW_CHOICES

#: Draws of signs; with so many, a p-value near the level is uncertain by a fifth of it.
N_DRAWS = 2499

#: Differences are multiples of small fractions, whose sums in another order round otherwise.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class QuestionEffect:
    """The chosen heads on the confirming half, with the own and with another record's question.

    Attributes:
        n: samples that were compared; 0 where no two records ask different questions.
        pointing: how often the highest cell of the heads' mean map, sinks dropped, lies in a box of
            the own question while another one is answered; ``None`` where ``n`` is 0.
        gain: by how much the own question raises the chosen heads' quality (pointing and AUC of
            each head's map in equal parts), on average.
        p_value: how often the best of all candidate heads gains as much by chance alone.
    """

    n: int
    pointing: float | None
    gain: float
    p_value: float


def question_effect(
    own: CandidateMaps, other: CandidateMaps, chosen: Selection, seed: int
) -> QuestionEffect:
    """Compare the candidates' maps with those of the same images and another question.

    Args:
        own: maps of samples that are in ``other``, in that order.
        other: their maps with another question.
        chosen: what the effect is measured of.
        seed: of the permutations.
    """
    n = own.size(CONFIRM)
    if not n:
        return QuestionEffect(0, None, 0.0, 1.0)
    hypotheses = [(head, rows) for rows in range(len(ROW_CHOICES)) for head in own.heads]
    differences = np.stack(
        [_quality(own, *one) - _quality(other, *one) for one in hypotheses], axis=1
    )
    places = [hypotheses.index((head, chosen.row_choice)) for head in chosen.grounding]
    joint = other.scores(chosen.grounding, chosen.row_choice, CONFIRM, chosen.sinks)
    return QuestionEffect(
        n=n,
        pointing=float(joint.pointing.mean()),
        gain=float(differences[:, places].mean()),
        p_value=max_sign_flip_p_value(differences, places, seed),
    )


def max_sign_flip_p_value(differences: Scores, chosen: Sequence[int], seed: int) -> float:
    """Family-wise p-value of the mean difference of some hypotheses, one-sided.

    Under the null hypothesis, both members of a pair are exchangeable: the differences of a sample
    have, together, a random sign. The mean over any hypotheses is at most the maximum over all of
    them, so the value holds for hypotheses that were picked after looking at the data.

    Args:
        differences: ``(samples, hypotheses)``.
        chosen: indices of hypotheses.
        seed: of the signs.

    Returns:
        At least ``1 / (N_DRAWS + 1)``.
    """
    observed = differences[:, chosen].mean() - _ROUNDING
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (N_DRAWS, len(differences)))
    highest = (signs @ differences / len(differences)).max(axis=1)
    return float((1 + (highest >= observed).sum()) / (N_DRAWS + 1))


def _quality(maps: CandidateMaps, head: tuple[int, int], row_choice: int) -> Scores:
    return maps.scores([head], row_choice, CONFIRM).quality

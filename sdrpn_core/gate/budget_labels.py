"""Gate labels from answers at a ladder of token budgets: the rule of Q-Zoom (arXiv:2604.06912).

A question is answered at several resolutions. Where the low ones fail and the high ones agree,
more pixels would help: the label of a low resolution is 1. Where all agree it is 0. The rule does
not ask whether *the crop* would help; :mod:`sdrpn_core.utility.likelihoods` does.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sdrpn_core.errors import InputError
from sdrpn_core.labels.pseudo import IGNORE

if TYPE_CHECKING:
    import random

#: The highest budgets are the oracle, if they agree; neither is ever trained on.
N_ORACLES = 2
#: Share of the draws that turn a hard question into an example of "more pixels would help".
POSITIVE_SHARE = 0.9
#: How many of the highest failing budgets these come from.
N_HARDEST = 2

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Difficulty(str, Enum):
    """What the ladder of answers says about a question."""

    EASY = "easy"
    """Every budget gives the oracle's answer."""
    HARD = "hard"
    """Low budgets fail, and no budget above the first right one does."""
    DROPPED = "dropped"
    """The oracle contradicts itself or the ground truth, or right and wrong answers alternate."""


@dataclass(frozen=True)
class GateLabel:
    """A label for one question at one resolution.

    Attributes:
        resolution: in visual tokens.
        label: 1 if more pixels would help, 0 if not, -100 to leave it out.
    """

    resolution: int
    label: int


@dataclass(frozen=True)
class AnswerLadder:
    """One question, answered at several resolutions.

    Attributes:
        resolutions: in visual tokens, ascending.
        answers: one for each.
        truths: the correct answers; one that matches any of them is right. (The published rule
            knows one.)

    Raises:
        InputError: no resolutions, not ascending, not one answer each, or no correct answer.
    """

    resolutions: Sequence[int]
    answers: Sequence[str]
    truths: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.answers) != len(self.resolutions):
            raise InputError(f"{len(self.answers)} answers for {len(self.resolutions)} resolutions")
        if not self.resolutions or list(self.resolutions) != sorted(set(self.resolutions)):
            raise InputError(f"the resolutions {list(self.resolutions)} do not ascend")
        if isinstance(self.truths, str) or not self.truths:
            raise InputError("the correct answers are a sequence of one or more")

    @property
    def difficulty(self) -> Difficulty:
        """Whether the question is worth training on, and as what."""
        wrong = self._wrong()
        if not self._stable or not self._is_right(self._oracle):
            return Difficulty.DROPPED
        if not wrong:
            return Difficulty.EASY
        return Difficulty.HARD if self._fails_first(wrong) else Difficulty.DROPPED

    @property
    def agreement(self) -> tuple[bool, ...]:
        """Per answer, whether it matches that of the highest budget."""
        return tuple(_match(normalized_answer(answer), self._oracle) for answer in self.answers)

    def draw(self, rng: random.Random) -> GateLabel:
        """A label at a resolution to train at.

        Easy questions give a label of 0 at any budget below the oracles. Hard ones mostly a 1 at
        one of the two highest failing budgets, and else a 0 at a budget that suffices. An ignored
        label stands at the lowest.

        Args:
            rng: decides.

        Raises:
            InputError: no budget is left below the oracles.
        """
        if len(self.answers) <= N_ORACLES:
            raise InputError(
                f"a label needs answers at at least {N_ORACLES + 1} resolutions; there "
                f"are {len(self.answers)}"
            )
        nothing = GateLabel(self.resolutions[0], IGNORE)
        below = range(len(self.answers) - N_ORACLES)
        wrong = self._wrong()
        if not self._stable or not self._fails_first(wrong):
            return nothing
        right = [place for place in below if place not in wrong]
        if wrong and rng.random() < POSITIVE_SHARE:
            if not self._is_right(self._oracle):
                return nothing
            return GateLabel(self.resolutions[rng.choice(wrong[-N_HARDEST:])], 1)
        return GateLabel(self.resolutions[rng.choice(right)], 0) if right else nothing

    @property
    def _oracle(self) -> str:
        return normalized_answer(self.answers[-1])

    @property
    def _stable(self) -> bool:
        return len({normalized_answer(answer) for answer in self.answers[-N_ORACLES:]}) == 1

    def _is_right(self, answer: str) -> bool:
        return any(_match(answer, normalized_answer(truth)) for truth in self.truths)

    def _wrong(self) -> list[int]:
        return [place for place, agrees in enumerate(self.agreement) if not agrees]

    @staticmethod
    def _fails_first(wrong: Sequence[int]) -> bool:
        """Whether all failing budgets lie below all others."""
        return list(wrong) == list(range(len(wrong)))


def balanced(ladders: Sequence[AnswerLadder], rng: random.Random) -> list[int]:
    """The indices of all hard questions, and of as many easy ones: the published mixture.

    Args:
        ladders: answered questions.
        rng: chooses the easy ones, and the order.
    """
    difficulties = [one.difficulty for one in ladders]
    hard = [i for i, difficulty in enumerate(difficulties) if difficulty is Difficulty.HARD]
    easy = [i for i, difficulty in enumerate(difficulties) if difficulty is Difficulty.EASY]
    mixed = hard + rng.sample(easy, min(len(hard), len(easy)))
    rng.shuffle(mixed)
    return mixed


def normalized_answer(answer: str) -> str:
    """What is compared: lower case, without punctuation; nothing may be left."""
    return answer.lower().strip().translate(_PUNCTUATION)


def _match(one: str, other: str) -> bool:
    """Whether one contains the other; the empty answer is in all, as published."""
    return one in other or other in one

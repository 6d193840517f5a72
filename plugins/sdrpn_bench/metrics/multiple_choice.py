"""Multiple choice: which letter a response chooses.

The patterns, and their order, are those that lmms-eval reads V* (arXiv:2312.14135) with.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from sdrpn_bench.metrics.metric import Metric
from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

MIN_LETTERS = 4
"""Letters that are looked for even where fewer options are known: A to D."""


def chosen_letter(
    response: str, n_options: int = MIN_LETTERS, *, whole_words: bool = False
) -> str | None:
    """The letter that a response chooses, ``None`` if it chooses none.

    In order: a letter that the response begins with, one behind "answer", "choice" or "option",
    one in parentheses, one before a period or a bracket, one that stands alone, the only one that
    occurs at all.

    Args:
        response: the model's response.
        n_options: how many letters there are, from A on.
        whole_words: accept only letters that are no part of a word, so that "Blue" is not B.
    """
    text = response.strip().upper()
    letters = string.ascii_uppercase[: max(n_options, MIN_LETTERS)]
    for pattern in _patterns(letters, whole_words):
        if match := pattern.search(text):
            return match.group(1).upper()
    occurring = re.findall(f"[{letters}]", text)
    return occurring[0] if len(occurring) == 1 and not whole_words else None


@lru_cache
def _patterns(letters: str, whole_words: bool) -> list[re.Pattern[str]]:
    letter = f"([{letters}])"
    if whole_words:
        letter = rf"(?<!\w){letter}(?!\w|'\w)"
    sources = (
        rf"^{letter}",
        rf"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+{letter}",
        rf"\({letter}\)",
        rf"{letter}\s*[.)\]]",
        rf"(?:^|\s){letter}(?:\s|$)",
    )
    return [re.compile(source, re.IGNORECASE) for source in sources]


@dataclass(frozen=True)
class MultipleChoice(Metric):
    """Whether the response chooses the right letter; see :func:`chosen_letter`.

    Attributes:
        whole_words: accept only letters that are no part of a word.
    """

    name: ClassVar[str] = "multiple_choice"

    whole_words: bool = False

    def check(self, record: Record) -> None:
        """Ask for one answer, which is the letter of an option.

        Raises:
            InputError: it is none, or there are several.
        """
        super().check(record)
        letters = string.ascii_uppercase[: len(record.options) or None]
        answer = _letter(record.answers[0])
        if len(record.answers) != 1 or len(answer) != 1 or answer not in letters:
            raise InputError(
                f"record {record.id!r}: the answer of a {self.name!r} question is a letter from A "
                f"to {letters[-1]}, not {', '.join(map(repr, record.answers))}"
            )

    def score(self, prediction: str, record: Record) -> float:
        """Score 1 for the right letter, else 0."""
        right = _letter(record.answers[0])
        n_options = max(len(record.options), string.ascii_uppercase.index(right) + 1)
        chosen = chosen_letter(prediction, n_options, whole_words=self.whole_words)
        return float(chosen == right)


def _letter(answer: str) -> str:
    return answer.strip().upper()

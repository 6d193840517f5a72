"""VQA accuracy: the share of annotators who agree, up to three.

References:
    S. Antol et al., VQA: Visual Question Answering, ICCV 2015, arXiv:1505.00468.
    A. Singh et al., Towards VQA Models That Can Read (TextVQA), CVPR 2019, arXiv:1904.08920.
    Texts are normalized as by the evaluation server of both, https://eval.ai.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from sdrpn_bench.metrics.metric import Metric
from sdrpn_core.errors import InputError

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

ENOUGH = 3
"""So many of the other annotators have to agree with a prediction for it to be right."""

_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS.split())}
_ARTICLES = {"a", "an", "the"}
_SYMBOLS = ';/[]"{}()=+\\_-><@`,?!'
_MAX_PERIODS = 32
"""The server removes no more periods: a flag of its regular expression is taken for a count."""

_CONTRACTIONS = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
    hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am
    might've mightn't mightn't've must've mustn't needn't not've o'clock oughtn't shan't
    she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll
    who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've
    y'all'll you'd you'd've you'll you're you've
"""

_APOSTROPHES = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}
"""A contraction that lacks one apostrophe -> how it is written; the last is the server's own."""


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Share of agreeing annotators, up to three, averaged over all ways to leave one out.

    Args:
        prediction: the model's response.
        answers: one per annotator.
    """
    given = normalize(prediction)
    agrees = [normalize(answer) == given for answer in answers]
    return fmean(min(1.0, (sum(agrees) - own) / ENOUGH) for own in agrees)


def normalize(text: str) -> str:
    """Normalize as the evaluation server: no case, articles and punctuation; digits for numbers."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.strip().replace("\n", " ").replace("\t", " ").strip()
    words = [_DIGITS.get(word, word) for word in _without_symbols(text).split()]
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def _without_symbols(text: str) -> str:
    """Without symbols: one that has a space beside it anywhere goes, any other is a space."""
    kept = text
    for symbol in _SYMBOLS:
        beside_space = f"{symbol} " in text or f" {symbol}" in text
        kept = kept.replace(symbol, "" if beside_space else " ")
    return re.sub(r"\.(?!\d)", "", kept, count=_MAX_PERIODS)


@dataclass(frozen=True)
class VQAAccuracy(Metric):
    """Agreement with the annotators; see :func:`vqa_accuracy`."""

    name: ClassVar[str] = "vqa_accuracy"

    def check(self, record: Record) -> None:
        """Ask for the answers of several annotators.

        Raises:
            InputError: there are so few that no prediction could score 1.
        """
        super().check(record)
        if len(record.answers) <= ENOUGH:
            raise InputError(
                f"record {record.id!r}: {self.name!r} needs the answers of at least {ENOUGH + 1} "
                f"annotators, not {len(record.answers)}: compare with 'exact_match' instead"
            )

    def score(self, prediction: str, record: Record) -> float:
        """Score by the annotators who agree."""
        return vqa_accuracy(prediction, record.answers)

"""Exact match of what is meant, not of how it is typed: signs, units and symbols count."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sdrpn_bench.metrics.metric import Metric

if TYPE_CHECKING:
    from sdrpn_core.data.record import Record

_MINUS = dict.fromkeys(map(ord, "‐‒–−"), "-")
"""Hyphen, figure dash, en dash and minus sign (U+2010, U+2012, U+2013, U+2212)."""
_QUOTES = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2044: "/"}
_MARKS = {"<super>": "^", "<sub>": "_", "<fraction>": " "}
"""What stands before a superscript, a subscript or a fraction once it is a plain character."""

_PAIRS = ('""', "''", "``", "**", "__", "()", "[]", "{}", "<>", "«»", '„"')
_OPENING = "\"'`([{«¿¡„"
_CLOSING = ".,;:!?)]}»…\"'`"
_FEET_AND_INCHES = re.compile(r"\d['\"]$")


def normalize(text: str) -> str:
    """Normalize words: no case, no quotes, brackets or punctuation around them.

    Whatever changes what is meant stays: signs and units (``-5``, ``10%``, ``$3``, ``6'``),
    symbols (``C++``, ``A+``, ``C#``), a point before or inside a number (``.5``, ``3.5``), and what
    is set higher or lower (``m²`` is ``m^2``, not ``m2``). All kinds of minus are one. A text of
    nothing but punctuation is kept.
    """
    previous = None
    while text != previous:  # a mark that is removed may have hidden another
        previous, text = text, _once(text)
    return text


def _once(text: str) -> str:
    words = _unwrapped(" ".join(_folded(text).split())).split()
    bare = [_bare(word) for word in words]
    return " ".join(filter(None, bare)) or "".join(words)


def _folded(text: str) -> str:
    """Fold case and the many ways to write one character."""
    marked = "".join(_MARKS.get(unicodedata.decomposition(c).split(" ")[0], "") + c for c in text)
    folded = unicodedata.normalize("NFKC", marked).casefold()
    return unicodedata.normalize("NFKC", folded).translate(_MINUS | _QUOTES)


def _unwrapped(text: str) -> str:
    """The text without quotes, brackets or emphasis around all of it."""
    inner = text[1:-1]
    if len(text) > 1 and text[0] + text[-1] in _PAIRS and inner.strip(_OPENING + _CLOSING + "*_"):
        return inner.strip()
    return text


def _bare(word: str) -> str:
    """A word without the punctuation around it."""
    while word[:1] and word[0] in _OPENING:
        word = word[1:]
    while word[:1] and word[0] in _CLOSING and not word[1:2].isdigit():
        word = word[1:]
    while word[-1:] and word[-1] in _CLOSING and not _FEET_AND_INCHES.search(word):
        word = word[:-1]
    return word


@dataclass(frozen=True)
class ExactMatch(Metric):
    """Whether the response is one of the accepted answers; see :func:`normalize`."""

    name: ClassVar[str] = "exact_match"

    def score(self, prediction: str, record: Record) -> float:
        """Score 1 for a match, else 0."""
        given = normalize(prediction)
        return float(any(normalize(answer) == given for answer in record.answers))

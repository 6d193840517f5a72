"""Predictions and answers to compare metrics on: near misses, and what is often disputed."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sdrpn_core.data.record import Record


@dataclass(frozen=True)
class Pair:
    """One response and the record that it answers, for one metric."""

    metric: str
    prediction: str
    answers: list[str]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> Record:
        return Record("1", (), "q", answers=tuple(self.answers), extra=self.extra)


VQA_TEXTS = [
    "yes", "Yes.", "no", "two", "2", "Two", "ten", "10", "none", "0", "zero", "the red bus",
    "red bus", "a red bus", "Red-bus", "red, bus", "red bus.", "dont", "don't", "DONT", "isnt it",
    "isn't it", "it's 5 o'clock", "its 5 oclock", "5:00", "coca-cola", "Coca Cola", "coca - cola",
    "3.5", "3,500", "3500", "3, 500", ".5", "5.", "$5.00", "$5", "U.S.A.", "usa", "u.s.a", "stop!",
    "stop", "one, two", "1 2", "what's up?", "whats up", "somebody'd", "somebodyd", "they'dve",
    "a\tb", "b", "multi\nline", "multi line", "(left)", "left", "[left]", "100%", "100", "50 %",
    "a/b", "a b", "c++", "c", "@home", "home", "#1", "x = y", "x=y", "x y", "rock 'n' roll",
    "rock n roll", "", " ", "the", "an", "she's", "she", "café", "CAFÉ", "yall'll", "'ows'at",
]  # fmt: skip
CHART_NUMBERS = [
    "0", "0.0", "-0", "1", "5", "-5", "12", "12.6", "11.4", "12.0", "100", "105", "95", "104.9",
    "0.05", "5%", "5.2%", "50%", "0.5", ".5", "5.", "1e3", "1000", "1,000", "1_000", " 5", "5 ",
    "5 %", "%", "5%%", "nan", "inf", "-inf", "$5", "5 million", "2015", "2014",
]  # fmt: skip
CHART_TEXTS = ["Yes", "yes", "YES", "No", "no.", "Blue", "blue", "blue ", "[1, 2]", "China", ""]
CHOICES = [
    "{a}", "({a})", "{a}.", "{a})", "{a}. the {w}", "Answer: {a}", "The answer is {a}.",
    "answer is: {a}", "Option {a}", "I choose {a}", "({a}) or ({b})", "{a} and {b}", "{w}",
    "The {w}", "the {w} is {a}]", "It is {w} ({a})", "choice\n{a}", "", " {a} ", "A {w}", "{w} {a}",
    "Neither", "None of them", "1", "the answer is not {a} but {b}", "**{a}**", "{a}:", "\"{a}\"",
]  # fmt: skip
CHOICE_WORDS = ["blue", "dog", "cat", "Left", "right", "red", "apple", "green", "xyz", "no", "um"]
YES_NO = [
    "yes", "Yes", " YES ", "no", "No", "NO\n", "Yes.", "no.", "Yes, there is.", "There is no dog",
    "", "maybe", "yes yes", "not", "Yes, there is no doubt", "y", "n", "true",
]  # fmt: skip
OCR_TEXTS = [
    "CENTRE", "Centre", "the centre", "cent re", "ＣＥＮＴＲＥ", "centre　road", "centre road",
    "centre\nroad", "5", "15", "$5.00", "5.00", "OPEN 24 HOURS", "open", "", "ｏｐｅｎ！", "open!",
    "ﬁne", "fine", "x", "Straße", "STRASSE", " road ", "road",
]  # fmt: skip
FORMULAS = [
    r"\frac { a } { b }", r"\frac{a}{b}", r"\frac{A}{b}", "x ^ 2", "x^2", "X^2", "x\n^2",
    "= x ^ { 2 }", "= x^{2}", "x^{2}", "a\tb", "ab",
]  # fmt: skip
LETTERS = string.ascii_letters + string.digits + " .-ß İé"

#: What ``docs/metrics.md`` lists as plainly wrong, and other corners.
CORNERS = [
    Pair("vqa_accuracy", "a.b" * 40, ["a.b" * 40] * 10),  # only 32 periods are removed
    Pair("vqa_accuracy", "ab" * 40, ["a.b" * 40] * 10),
    Pair("vqa_accuracy", "-5", ["5", "- 5", "-5", *["five"] * 7]),
    Pair("vqa_accuracy", "somebody'd", ["somebodyd"] * 10),
    Pair("vqa_accuracy", "red", ["red"] * 3 + ["blue"] * 7),
    Pair("anls", "ab", ["abcd"]),  # exactly half of the letters: by the definition 0
    Pair("anls", "cat      ", ["dog"]),  # spaces count as letters that are right
    Pair("anls", "", [""]),
    Pair("relaxed_accuracy", "10", ["10%"]),
    Pair("relaxed_accuracy", "0.0", ["0"]),
    Pair("relaxed_accuracy", "1,000", ["1000"]),
    Pair("relaxed_accuracy", "Yes.", ["Yes"]),
    Pair("multiple_choice", "Blue", ["B"]),
    Pair("multiple_choice", "Cannot tell", ["C"]),
    Pair("multiple_choice", "I think it is B, not A", ["B"]),
    Pair("yes_no", "Yes, there is.", ["yes"]),
    Pair("yes_no", "No.", ["no"]),
    Pair("containment", "15", ["5"], {"dataset": "SVT"}),
    Pair("containment", "anything", [""], {"dataset": "SVT"}),
]


def pairs(metric: str, n: int, seed: int = 0) -> list[Pair]:
    """Draw pairs: the same for every ``n``, given the seed."""
    rng = random.Random(f"{metric}/{seed}")
    return [Pair(metric, *GENERATORS[metric](rng)) for _ in range(n)]


def _vqa(rng: random.Random) -> tuple[str, list[str]]:
    few = [_touched(rng, rng.choice(VQA_TEXTS)) for _ in range(rng.randint(1, 4))]
    return rng.choice([*few, rng.choice(VQA_TEXTS)]), [rng.choice(few) for _ in range(10)]


def _anls(rng: random.Random) -> tuple[str, list[str]]:
    answers = [
        "".join(rng.choices(LETTERS, k=rng.randint(0, 14))) for _ in range(rng.randint(1, 3))
    ]
    prediction = rng.choice(answers)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        prediction = _touched(rng, prediction)
    return rng.choice((str.upper, str.lower, str))(prediction), answers


def _relaxed(rng: random.Random) -> tuple[str, list[str]]:
    pool = rng.choice((CHART_NUMBERS, CHART_NUMBERS, CHART_TEXTS))
    answer = rng.choice(pool)
    near = str(rng.choice((1, 1.04, 1.05, 0.95, 0.949, 1.051, 2)) * rng.randint(-40, 40) / 4)
    return rng.choice((rng.choice(pool), answer, answer.swapcase(), near)), [answer]


def _choice(rng: random.Random) -> tuple[str, list[str]]:
    a, b = rng.choices("ABCDABCDE", k=2)
    form = rng.choice(CHOICES).format(a=a, b=b, w=rng.choice(CHOICE_WORDS))
    answer = rng.choice((a if a != "E" else "D", rng.choice("ABCD")))
    return rng.choice((str, str.lower))(form), [rng.choice((answer, f" {answer.lower()} "))]


def _yes_no(rng: random.Random) -> tuple[str, list[str]]:
    return rng.choice(YES_NO), [rng.choice(("yes", "no", "Yes", " no"))]


def _containment(rng: random.Random) -> tuple[str, list[str], dict[str, Any]]:
    formulas = rng.random() < 0.3
    pool = FORMULAS if formulas else OCR_TEXTS
    answers = rng.choices(pool, k=rng.randint(1, 3))
    around = rng.choice(("{}", "it says {}", "{} is written", "\n{}\n"))
    prediction = around.format(rng.choice((rng.choice(pool), answers[0])))
    return prediction, answers, {"dataset": "HME100k" if formulas else "SVT"}


def _touched(rng: random.Random, text: str) -> str:
    """The text with a letter deleted, doubled or inserted, a mark added, or as it is."""
    place = rng.randrange(len(text) + 1)
    return rng.choice(
        (
            text,
            text[:place] + text[place + 1 :],
            text[:place] + text[place : place + 1] + text[place:],
            text[:place] + rng.choice(LETTERS + string.punctuation) + text[place:],
            text + rng.choice((".", " ", "!", " ?", ",")),
        )
    )


GENERATORS: dict[str, Callable[[random.Random], tuple[Any, ...]]] = {
    "vqa_accuracy": _vqa,
    "anls": _anls,
    "relaxed_accuracy": _relaxed,
    "multiple_choice": _choice,
    "yes_no": _yes_no,
    "containment": _containment,
}

"""Questions about a scene and their answers, which begin with the colors that are asked about."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from sdrpn_glyphs.marks import VALUES
from sdrpn_glyphs.scenes import Object, Scene, SceneSpec, make_scene
from sdrpn_glyphs.shapes import COLORS, KINDS

NOUNS = ("shape", "object")
NONE = "none"
YES, NO = "yes", "no"

DETAIL_FORMS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "dot": (
            "What color is the dot on the {0} {noun}?",
            "Which color does the dot of the {0} {noun} have?",
            "Look at the {0} {noun}. What color is its dot?",
        ),
        "character": (
            "Which letter or digit is on the {0} {noun}?",
            "What does the {0} {noun} say?",
            "Read the letter or digit on the {0} {noun}.",
        ),
        "arrow": (
            "Which way does the arrow on the {0} {noun} point?",
            "In which direction does the arrow of the {0} {noun} point?",
        ),
        "pips": (
            "How many pips are on the {0} {noun}?",
            "Count the pips on the {0} {noun}.",
        ),
    }
)
EXISTS_FORMS = ("Is there a {0} {noun}?", "Do you see a {0} {noun}?")
PAIR_FORMS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "dot": (
            "What color is the dot on the {0} and the dot on the {1} {noun}?",
            "Look at the {0} and the {1} {noun}. Which dots do they have?",
        ),
        "character": (
            "What do the {0} and the {1} {noun} say?",
            "Read the letters or digits on the {0} and the {1} {noun}.",
        ),
    }
)
ANSWERS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        **{topic: (*values, NONE) for topic, values in VALUES.items()},
        "exists": (YES, NO),
        "pair": (*VALUES["dot"], *VALUES["character"]),
    }
)
"""Per topic, the words that can be its answer, or a part of it."""
WHOLE_ANSWERS = ("pair",)
"""Topics whose answers are several words; for the others, the last word counts."""


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        topic: a key of :data:`ANSWERS`.
        text: the question.
        answer: colors and details, as the model is taught to answer.
        target: the word that counts; the last of ``answer``.
        objects: whose details decide; none where no region is right.
        scene: what the image shows.
    """

    topic: str
    text: str
    answer: str
    target: str
    objects: tuple[Object, ...]
    scene: Scene


def _noun(rng: random.Random, *asked: Object) -> str:
    kinds = {one.kind for one in asked}
    return rng.choice((*NOUNS, *(kinds if len(kinds) == 1 else ())))


def _question(
    rng: random.Random,
    forms: tuple[str, ...],
    colors: tuple[str, ...],
    noun: str,
    words: tuple[str, ...],
    scene: Scene,
    topic: str,
    objects: tuple[Object, ...],
) -> Question:
    text = rng.choice(forms).format(*colors, noun=noun)
    return Question(topic, text, " ".join(words), words[-1], objects, scene)


def ask_detail(rng: random.Random, spec: SceneSpec, topic: str) -> Question:
    """Ask for the mark of one object."""
    scene = make_scene(rng, spec, [(topic, None)])
    asked = scene.objects[0]
    words = (asked.color, asked.mark.value)
    forms = DETAIL_FORMS[topic]
    return _question(rng, forms, (asked.color,), _noun(rng, asked), words, scene, topic, (asked,))


def ask_absent(rng: random.Random, spec: SceneSpec) -> Question:
    """Ask for the mark of an object that is not there."""
    topic, color = rng.choice(list(DETAIL_FORMS)), rng.choice(list(COLORS))
    scene = make_scene(rng, spec, [(rng.choice(list(VALUES)), None)], unseen=color)
    noun = rng.choice((*NOUNS, *KINDS))
    return _question(rng, DETAIL_FORMS[topic], (color,), noun, (color, NONE), scene, topic, ())


def ask_exists(rng: random.Random, spec: SceneSpec) -> Question:
    """Ask whether something of a color is there."""
    there = rng.random() < 0.5
    color = rng.choice(list(COLORS))
    first = [(rng.choice(list(VALUES)), None)]
    scene = make_scene(rng, spec, first, unseen=None if there else color)
    noun = rng.choice(NOUNS)
    if there:
        color = scene.objects[0].color
    words = (color, YES if there else NO)
    return _question(rng, EXISTS_FORMS, (color,), noun, words, scene, "exists", ())


def ask_pair(rng: random.Random, spec: SceneSpec) -> Question:
    """Ask for the marks of two objects far apart, which takes two regions."""
    kind = rng.choice(list(PAIR_FORMS))
    scene = make_scene(rng, spec, [(kind, None), (kind, None)], apart=True)
    one, other = scene.objects[:2]
    words = (one.color, one.mark.value, other.color, other.mark.value)
    colors = (one.color, other.color)
    noun = _noun(rng, one, other)
    return _question(rng, PAIR_FORMS[kind], colors, noun, words, scene, "pair", (one, other))


Asker = Callable[[random.Random, SceneSpec], Question]


def _detail(topic: str) -> Asker:
    return lambda rng, spec: ask_detail(rng, spec, topic)


ASKERS: MappingProxyType[str, Asker] = MappingProxyType(
    {
        **{topic: _detail(topic) for topic in DETAIL_FORMS},
        "absent": ask_absent,
        "exists": ask_exists,
        "pair": ask_pair,
    }
)


def answered(prediction: str, topic: str) -> str | None:
    """The answer that a response gives: the last of its words that can answer the topic.

    Of a topic with :data:`WHOLE_ANSWERS`, all of these words.
    """
    words = [word.strip(".,;:!?\"'()") for word in prediction.lower().split()]
    named = [word for word in words if word in ANSWERS[topic]]
    if not named:
        return None
    return " ".join(named) if topic in WHOLE_ANSWERS else named[-1]


def vocabulary() -> tuple[str, ...]:
    """Every lower-case word of questions and answers, sorted: what a tokenizer must know."""
    forms = [*EXISTS_FORMS]
    for group in (DETAIL_FORMS, PAIR_FORMS):
        forms += [form for several in group.values() for form in several]
    words = {*NOUNS, *KINDS, *COLORS}
    for answers in ANSWERS.values():
        words.update(answers)
    for form in forms:
        for mark in "?.:,":
            form = form.replace(mark, f" {mark} ")
        words.update(word for word in form.lower().split() if not word.startswith("{"))
    return tuple(sorted(words))

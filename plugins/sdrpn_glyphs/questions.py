"""Questions about one shape of a scene, and their short answers.

Every answer starts with the color that the question names, directly before the word that has to be
found in the image. So the last token of the prompt must know what the question is about, and the
answer's color token must attend to that object.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from .scenes import COLORS, KINDS, Scene, Shape

POSITION_BINS = 10
"""A position is given as column and row of a grid with this many cells per side."""

DIGITS = tuple(str(i) for i in range(POSITION_BINS))

FORMS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "dot": (
            "What color is the dot on the {color} {noun}?",
            "The {color} {noun} has a dot of which color?",
            "Look at the {color} {noun}. What color is its dot?",
            "Name the color of the dot inside the {color} {noun}.",
            "Which color does the dot of the {color} {noun} have?",
        ),
        "position": (
            "Where is the {color} {noun}?",
            "Give the position of the {color} {noun}.",
            "In which column and row is the {color} {noun}?",
        ),
        "shape": (
            "What shape is the {color} object?",
            "Name the shape of the {color} object.",
        ),
    }
)
NOUNS = ("shape", "object")


@dataclass(frozen=True)
class Question:
    """A question about ``shape``: ``target`` is the word to be found, part of ``answer``."""

    topic: str
    text: str
    answer: str
    target: str
    shape: Shape


def _target(topic: str, shape: Shape, scene: Scene) -> str:
    """The words that answer ``topic``, without the leading color."""
    if topic == "dot":
        return shape.dot
    if topic == "shape":
        return shape.kind
    column, row = (int(c * POSITION_BINS / scene.size) for c in shape.center)
    return f"{DIGITS[column]} {DIGITS[row]}"


def ask(rng: random.Random, scene: Scene, topic: str, shape: Shape | None = None) -> Question:
    """Ask a question of ``topic`` (a key of ``FORMS``) about ``shape``, by default a random one."""
    shape = shape or rng.choice(scene.shapes)
    text = rng.choice(FORMS[topic]).format(color=shape.color, noun=rng.choice((*NOUNS, shape.kind)))
    target = _target(topic, shape, scene)
    return Question(topic, text, f"{shape.color} {target}", target, shape)


def answered_color(prediction: str) -> str | None:
    """The dot color that an answer names: the color before the word "dot", else the last color.

    ``"red yellow"``, ``"Yellow."`` and ``"a yellow dot on the red square"`` all name yellow.
    """
    words = [word.strip(".,;:!?\"'()") for word in prediction.lower().split()]
    for word, following in pairwise(words):
        if following == "dot" and word in COLORS:
            return word
    named = [word for word in words if word in COLORS]
    return named[-1] if named else None


def vocabulary() -> tuple[str, ...]:
    """Every lower-case word of questions and answers, sorted: what a tokenizer must know."""
    from .world.questions import words_of_world

    words: set[str] = {*COLORS, *KINDS, *NOUNS, *DIGITS}
    for forms in FORMS.values():
        for form in forms:
            plain = form.replace("{color}", " ").replace("{noun}", " ")
            words.update(plain.lower().replace("?", " ? ").replace(".", " . ").split())
    return tuple(sorted(words | words_of_world()))

"""The splits: reproducible lists of (image, question, answer, boxes).

Items are drawn from the key ``split/seed/index``. Splits never share a key, so training and test
items are drawn independently, whatever the seeds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from PIL import Image

from .questions import Question, answered_color, ask
from .scenes import Box, Scene, SceneSpec, make_scene, render

SMALL = SceneSpec(count=(2, 6), width=(0.045, 0.085))
VISIBLE = SceneSpec(count=(1, 5), width=(0.16, 0.28))
"""Widths at which the dot is at least about three pixels wide at model resolution (80 pixels)."""
MIXED = SceneSpec(count=(2, 6), width=(0.045, 0.28), by_factor=True)
"""From hidden to plainly visible: some questions need a crop, the others do not."""


@dataclass(frozen=True)
class SplitSpec:
    """The scenes of a split, and the topics of the questions about them, with weights."""

    scenes: SceneSpec
    topics: tuple[tuple[str, float], ...] = (("dot", 1.0),)


SPLITS: MappingProxyType[str, SplitSpec] = MappingProxyType(
    {
        "glyphs/train": SplitSpec(SMALL),
        "glyphs/small": SplitSpec(SMALL),
        "glyphs/visible": SplitSpec(VISIBLE),
        "glyphs/mixed": SplitSpec(MIXED),
        "glyphs/mixed_train": SplitSpec(MIXED),
    }
)


@dataclass(frozen=True)
class Item:
    """One question about one image. ``boxes`` hold the asked object, in source pixels."""

    id: str
    split: str
    question: str
    answer: str
    target: str
    boxes: tuple[Box, ...]
    scene: Scene

    @property
    def image(self) -> Image.Image:
        """The image, rendered at each access (a few milliseconds)."""
        return render(self.scene)


def draw_question(rng: random.Random, split: SplitSpec) -> tuple[Scene, Question]:
    """Draw a scene of the split, and a question about it."""
    scene = make_scene(rng, split.scenes)
    topics, weights = zip(*split.topics, strict=True)
    return scene, ask(rng, scene, rng.choices(topics, weights)[0])


def make_item(split: str, index: int, seed: int = 0) -> Item:
    """Make item ``index`` of a split.

    Raises:
        KeyError: unknown split; names the known ones.
    """
    if split not in SPLITS:
        raise KeyError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    key = f"{split}/{seed}/{index}"
    scene, question = draw_question(random.Random(key), SPLITS[split])
    return Item(
        id=key,
        split=split,
        question=question.text,
        answer=question.answer,
        target=question.target,
        boxes=(question.shape.box,),
        scene=scene,
    )


def items(split: str, n: int, seed: int = 0) -> Iterator[Item]:
    """Make the first ``n`` items of a split: the same for every ``n``, given the seed."""
    return (make_item(split, index, seed) for index in range(n))


def is_correct(prediction: str, item: Item) -> bool:
    """Whether a free-form answer names the color of the dot, ignoring case and spacing."""
    return answered_color(prediction) == item.target

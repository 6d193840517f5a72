"""The splits: endless, reproducible lists of images, questions, answers and boxes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import MappingProxyType

from sdrpn_glyphs.questions import ASKERS, Question
from sdrpn_glyphs.scenes import SceneSpec

HIDDEN = (0.05, 0.09)
"""Widths at which the model input does not show the mark: 4 to 7 of 80 pixels."""
SHOWN = (0.18, 0.30)
"""Widths at which it does: 14 to 24 pixels."""
ANY = (0.05, 0.30)

DETAILS = (("dot", 0.3), ("character", 0.3), ("arrow", 0.2), ("pips", 0.2))
EVERYTHING = (
    ("dot", 0.21),
    ("character", 0.25),
    ("arrow", 0.12),
    ("pips", 0.12),
    ("pair", 0.14),
    ("exists", 0.07),
    ("absent", 0.09),
)


@dataclass(frozen=True)
class SplitSpec:
    """The scenes of a split, and the topics of its questions, with weights."""

    scenes: SceneSpec
    topics: tuple[tuple[str, float], ...]


SPLITS: MappingProxyType[str, SplitSpec] = MappingProxyType(
    {
        "glyphs/train": SplitSpec(SceneSpec(ANY), EVERYTHING),
        "glyphs/visible": SplitSpec(SceneSpec(SHOWN), DETAILS),
        "glyphs/small": SplitSpec(SceneSpec(HIDDEN), DETAILS),
        "glyphs/mixed": SplitSpec(SceneSpec(ANY), EVERYTHING),
        "glyphs/pairs": SplitSpec(SceneSpec(HIDDEN), (("pair", 1.0),)),
        "glyphs/absent": SplitSpec(SceneSpec(HIDDEN), (("absent", 1.0),)),
    }
)


def make_question(split: str, index: int, seed: int = 0) -> Question:
    """Make question ``index`` of a split: the same on every machine.

    Raises:
        KeyError: unknown split; names the known ones.
    """
    if split not in SPLITS:
        raise KeyError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    spec = SPLITS[split]
    rng = random.Random(f"{split}/{seed}/{index}")
    topics, weights = zip(*spec.topics, strict=True)
    return ASKERS[rng.choices(topics, weights)[0]](rng, spec.scenes)

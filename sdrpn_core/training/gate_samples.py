"""Questions to train a gate on: what a crop was worth, or answers at a ladder of resolutions.

The label of a question is a grid of one cell, so that questions are batched as labeled images are.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.gate.budget_labels import balanced
from sdrpn_core.training.samples import DrawnSamples, Item, TrainingSample

if TYPE_CHECKING:
    from sdrpn_core.backbone.preprocessing import Preprocessor
    from sdrpn_core.gate.budget_labels import AnswerLadder


class DrawnBudgets(DrawnSamples):
    """Questions at a resolution that is drawn anew in each epoch, with the label of the draw.

    The published mixture: all hard questions, and as many easy ones.

    Args:
        rows: answered questions.
        ladders: one for each.
        preprocess: by resolution, makes the encoder's input of an image at most that large.
        seed: of the mixture and the draws.
        max_pixels: images with more pixels are skipped.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        ladders: Sequence[AnswerLadder],
        preprocess: Mapping[int, Preprocessor],
        *,
        seed: int,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.rows = rows
        self.ladders = ladders
        self.preprocess = preprocess
        self.seed = seed
        self.max_pixels = max_pixels
        self.chosen = balanced(ladders, random.Random(seed))

    def __len__(self) -> int:
        return len(self.chosen)

    def draw(self, index: int, epoch: int) -> Item:
        """A question at the epoch's resolution."""
        place = self.chosen[index]
        row = self.rows[place]
        # By epoch and record, so that a resumed run draws what an uninterrupted one would.
        rng = random.Random(f"{self.seed}/{epoch}/{place}")
        drawn = self.ladders[place].draw(rng)
        return _sample(row, drawn.label, self.preprocess[drawn.resolution], self.max_pixels)


def question_sample(record_id: str, question: str, image: ImageInput, label: int) -> TrainingSample:
    """A question with its label, as a grid of one cell.

    Args:
        record_id: of the record.
        question: what is asked.
        image: the encoder's input.
        label: 1 if a region is needed, 0 if not, -100 to leave it out.
    """
    return TrainingSample(record_id, question, image, np.array([[label]], dtype=np.int64))

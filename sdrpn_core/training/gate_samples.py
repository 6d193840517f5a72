"""Questions to train a gate on: what a crop was worth, or answers at a ladder of resolutions.

The label of a question is a grid of one cell, so that questions are batched as labeled images are.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch.utils.data import Dataset

from sdrpn_core.data.images import open_image
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.errors import InputError
from sdrpn_core.gate.budget_labels import balanced
from sdrpn_core.training.samples import DrawnSamples, Item, SkippedSample, TrainingSample
from sdrpn_core.utility.candidates import RPN_REGION

if TYPE_CHECKING:
    from sdrpn_core.backbone.preprocessing import Preprocessor
    from sdrpn_core.gate.budget_labels import AnswerLadder
    from sdrpn_core.gate.utility_labels import UtilityMargins
    from sdrpn_core.utility.run import UtilityDataset


class AskedRow(Protocol):
    """A question that can be asked again."""

    @property
    def id(self) -> str:
        """Of the record."""

    @property
    def question(self) -> str:
        """What is asked."""

    @property
    def image(self) -> Path | bytes | None:
        """Where the image is."""


class JudgedQuestions(Dataset[Item]):
    """Questions whose label is what the RPN's region was worth.

    Args:
        rows: of a utility run.
        margins: make labels of utilities.
        preprocess: makes the encoder's input of an image.
        max_pixels: images with more pixels are skipped.
    """

    def __init__(
        self,
        rows: UtilityDataset,
        margins: UtilityMargins,
        preprocess: Preprocessor,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.rows = rows
        self.margins = margins
        self.preprocess = preprocess
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        row = self.rows[index]
        utility = row.utility(RPN_REGION)
        if utility is None:
            return SkippedSample(row.id, "the RPN's region was not judged")
        return _sample(row, self.margins.label(utility), self.preprocess, self.max_pixels)


class DrawnBudgets(DrawnSamples):
    """Questions at a resolution that is drawn anew in each epoch, with the label of the draw.

    The published mixture: all hard questions, and as many easy ones.

    Args:
        rows: answered questions.
        ladders: the answers to each.
        preprocess: by resolution in visual tokens, makes the encoder's input of an image that is at
            most that large.
        seed: of the mixture and the draws.
        max_pixels: images with more pixels are skipped.
    """

    def __init__(
        self,
        rows: Sequence[AskedRow],
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
        """A question at the resolution of an epoch."""
        place = self.chosen[index]
        # By epoch and record, so that a resumed run draws what an uninterrupted one would.
        drawn = self.ladders[place].draw(random.Random(f"{self.seed}/{epoch}/{place}"))
        preprocess = self.preprocess[drawn.resolution]
        return _sample(self.rows[place], drawn.label, preprocess, self.max_pixels)


def _sample(row: AskedRow, label: int, preprocess: Preprocessor, max_pixels: int) -> Item:
    try:
        if row.image is None:
            raise InputError("the image was not stored")
        image = preprocess(open_image(row.image, max_pixels=max_pixels))
    except InputError as error:
        return SkippedSample(row.id, str(error))
    return TrainingSample(row.id, row.question, image, np.array([[label]], dtype=np.int64))

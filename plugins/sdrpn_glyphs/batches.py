"""Training batches, each a pure function of (seed, stage, step), so that a run can resume.

Images go through the backbone's own preprocessing, so training and inference see the same inputs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import ImageInput
from sdrpn_glyphs.shapes import Box

PREFETCH = 4


class Batches(Dataset[Any]):
    """``steps`` batches of ``size``; batch i is a function of (seed, stage, i) alone."""

    def __init__(self, backbone: Backbone, seed: int, stage: str, steps: int, size: int) -> None:
        self.backbone = backbone
        self.seed, self.stage, self.steps, self.size = seed, stage, steps, size

    def __len__(self) -> int:
        return self.steps

    def rng(self, step: int) -> random.Random:
        """The source of all randomness of one batch."""
        return random.Random(f"pretrain/{self.stage}/{self.seed}/{step}")


@dataclass(frozen=True)
class JoinedImages:
    """The images of a batch, joined: sent to the training process as a few large tensors.

    Attributes:
        tensors: as :attr:`ImageInput.tensors`, concatenated over all images.
        grids: per image, ``(h, w)``.
    """

    tensors: dict[str, torch.Tensor]
    grids: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, inputs: Sequence[ImageInput]) -> JoinedImages:
        """Join the inputs of several images."""
        tensors = {
            key: torch.cat([item.tensors[key] for item in inputs]) for key in inputs[0].tensors
        }
        return cls(tensors, tuple(item.geometry.grid for item in inputs))


def view(backbone: Backbone, image: Image.Image, box: Box) -> ImageInput:
    """Preprocess the whole image, or one box of it as a crop."""
    if box == (0, 0, *image.size):
        return backbone.preprocess(image)
    return backbone.preprocess_crop(image.crop(box))


def loader(batches: Batches, start: int, workers: int = 1) -> DataLoader[Any]:
    """Load the batches from step ``start`` on, prefetched by worker processes if there are any."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
    )

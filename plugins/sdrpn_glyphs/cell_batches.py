"""Batches of images with labels for every cell."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import ImageInput
from sdrpn_glyphs.batches import Batches, JoinedImages, view
from sdrpn_glyphs.dataset import ANY, HIDDEN, SHOWN
from sdrpn_glyphs.packed import packed_scene
from sdrpn_glyphs.patch_labels import patch_labels
from sdrpn_glyphs.questions import ASKERS, DETAIL_FORMS
from sdrpn_glyphs.scenes import Scene, SceneSpec, render, render_index
from sdrpn_glyphs.shapes import Box
from sdrpn_glyphs.training_crops import object_crop

ALIGNMENT_TOLERANCE = 0.1
"""Cells by which two grids over the same image may differ and still count as aligned."""

PACKED_SHARE = 0.75
"""Share of the images of packed scenes; the others are of scenes that questions are about."""

SQUARE_SHARE = 0.6
"""Share of the packed scenes that are square, with a teacher."""


@dataclass(frozen=True)
class CellBatch:
    """Images, and the labels of all their cells, one after another.

    Attributes:
        images: the images.
        labels: uint8 ``(cells, LABEL_COUNT)``, 0 or 1.
        known: the same shape: which labels are known.
        teacher_images: those images whose grid is aligned with the teacher's, as the teacher's
            input.
        shared: bool ``(cells,)``, the cells of those images.
    """

    images: JoinedImages
    labels: torch.Tensor
    known: torch.Tensor
    teacher_images: JoinedImages | None
    shared: torch.Tensor


class CellBatches(Batches):
    """Packed scenes, and the other scenes as a whole and in crops. A ``teacher`` sees the same."""

    def __init__(
        self,
        backbone: Backbone,
        seed: int,
        stage: str,
        steps: int,
        size: int,
        teacher: Backbone | None = None,
    ) -> None:
        super().__init__(backbone, seed, stage, steps, size)
        self.teacher = teacher

    def __getitem__(self, step: int) -> CellBatch:
        rng = self.rng(step)
        inputs: list[ImageInput] = []
        labels: list[np.ndarray] = []
        known: list[np.ndarray] = []
        teacher_inputs: list[ImageInput] = []
        shared: list[np.ndarray] = []
        while len(inputs) < self.size:
            scene, boxes = self._shown(rng, packed=len(inputs) < PACKED_SHARE * self.size)
            image, index = render(scene), render_index(scene)
            for box in boxes:
                given = view(self.backbone, image, box)
                patch, is_known = patch_labels(scene, index, box, given.geometry)
                inputs.append(given)
                labels.append(patch)
                known.append(is_known)
                theirs = self.teacher.preprocess(image.crop(box)) if self.teacher else None
                aligned = [theirs] if theirs and _are_aligned(given, theirs) else []
                teacher_inputs += aligned
                shared.append(np.full(len(patch), bool(aligned)))
        return CellBatch(
            JoinedImages.of(inputs),
            torch.from_numpy(np.concatenate(labels)),
            torch.from_numpy(np.concatenate(known)),
            JoinedImages.of(teacher_inputs) if teacher_inputs else None,
            torch.from_numpy(np.concatenate(shared)),
        )

    def _shown(self, rng: random.Random, *, packed: bool) -> tuple[Scene, tuple[Box, ...]]:
        if packed:
            # Encoders that keep an image's aspect ratio have the teacher's grid for square ones.
            square = self.teacher is not None and rng.random() < SQUARE_SHARE
            scene = packed_scene(rng, *((1.0,) if square else ()))
            return scene, (scene.full_box,)
        topic = rng.choice(list(DETAIL_FORMS))
        scene = ASKERS[topic](rng, SceneSpec(rng.choice((HIDDEN, SHOWN, ANY)))).scene
        return scene, (scene.full_box, object_crop(rng, scene, scene.objects[0]))


def _are_aligned(first: ImageInput, second: ImageInput) -> bool:
    """Whether two inputs of the same image have their cells in the same positions."""
    ours, theirs = first.geometry, second.geometry
    if ours.grid != theirs.grid:
        return False
    whole = [(0, 0, *ours.source_size)]
    distance = np.abs(ours.to_grid(whole) - theirs.to_grid(whole)).max()
    return bool(distance <= ALIGNMENT_TOLERANCE)

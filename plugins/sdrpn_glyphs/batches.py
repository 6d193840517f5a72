"""Training batches, each a pure function of (seed, stage, step), so that a run can resume.

Images go through the backbone's own preprocessing, so training and inference see the same inputs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from sdrpn_core.backbone.adapter import Backbone, ImageInput

from .patch_labels import patch_labels
from .questions import Question, ask
from .scenes import FULL_BOX, Box, Scene, SceneSpec, make_scene, render, render_index
from .training_crops import kept_tokens, stray_crop, training_crop

PREFETCH = 4
ALIGNMENT_TOLERANCE = 0.1
"""Cells by which two grids over the same image may differ and still count as aligned."""

ANY_SIZE = SceneSpec(count=(1, 6), width=(0.045, 0.30))
CROWDED = SceneSpec(count=(3, 6), width=(0.12, 0.27))
SMALL = SceneSpec(count=(1, 6), width=(0.04, 0.10))
LARGE = SceneSpec(count=(1, 5), width=(0.16, 0.28))
MIXED = SceneSpec(count=(2, 6), width=(0.045, 0.22))


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


@dataclass(frozen=True)
class PatchBatch:
    """Images of scenes, and the labels of all their cells, one after another.

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


class PatchBatches(Batches):
    """Batches of labeled cells; half of the images are crops. A ``teacher`` sees the same."""

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

    def __getitem__(self, step: int) -> PatchBatch:
        rng = self.rng(step)
        inputs: list[ImageInput] = []
        labels: list[np.ndarray] = []
        known: list[np.ndarray] = []
        teacher_inputs: list[ImageInput] = []
        shared: list[np.ndarray] = []
        while len(inputs) < self.size:
            scene = make_scene(rng, rng.choice((ANY_SIZE, CROWDED, SMALL)))
            image, index = render(scene), render_index(scene)
            for box in (FULL_BOX, training_crop(rng, rng.choice(scene.shapes))):
                ours = model_input(self.backbone, image, box)
                inputs.append(ours)
                patch, is_known = patch_labels(scene, index, box, ours.geometry)
                labels.append(patch)
                known.append(is_known)
                theirs = self.teacher.preprocess(image.crop(box)) if self.teacher else None
                aligned = [theirs] if theirs and _are_aligned(ours, theirs) else []
                teacher_inputs += aligned
                shared.append(np.full(len(patch), bool(aligned)))
        return PatchBatch(
            JoinedImages.of(inputs),
            torch.from_numpy(np.concatenate(labels)),
            torch.from_numpy(np.concatenate(known)),
            JoinedImages.of(teacher_inputs) if teacher_inputs else None,
            torch.from_numpy(np.concatenate(shared)),
        )


def _are_aligned(first: ImageInput, second: ImageInput) -> bool:
    """Whether two inputs of the same image have their cells in the same positions."""
    ours, theirs = first.geometry, second.geometry
    if ours.grid != theirs.grid:
        return False
    whole = [(0, 0, *ours.source_size)]
    distance = np.abs(ours.to_grid(whole) - theirs.to_grid(whole)).max()
    return bool(distance <= ALIGNMENT_TOLERANCE)


@dataclass(frozen=True)
class Mode:
    """One kind of question-answering batch: its scenes, topics, and number of crops."""

    weight: float
    scenes: tuple[SceneSpec, ...]
    topics: tuple[tuple[str, float], ...]
    crops: int = 0
    drop_tokens: bool = False


WARM_UP = (Mode(1.0, (CROWDED,), (("dot", 0.5), ("shape", 0.2), ("position", 0.3))),)
MODES = (
    Mode(0.22, (CROWDED,), (("dot", 0.6), ("shape", 0.15), ("position", 0.25))),
    Mode(0.28, (SMALL, MIXED), (("dot", 0.2), ("shape", 0.15), ("position", 0.65))),
    Mode(0.30, (SMALL, SMALL, MIXED), (("dot", 0.85), ("shape", 0.05), ("position", 0.1)), crops=1),
    Mode(0.10, (SMALL, SMALL, MIXED), (("dot", 1.0),), crops=1, drop_tokens=True),
    Mode(0.05, (SMALL, SMALL, MIXED), (("dot", 1.0),), crops=2),
)
JOINT_MODES = (
    Mode(0.34, (CROWDED, LARGE), (("dot", 0.9), ("shape", 0.1))),
    Mode(0.08, (SMALL, MIXED), (("dot", 0.4), ("position", 0.6))),
    Mode(0.38, (SMALL, SMALL, MIXED), (("dot", 1.0),), crops=1),
    Mode(0.14, (SMALL, SMALL, MIXED), (("dot", 1.0),), crops=1, drop_tokens=True),
    Mode(0.06, (SMALL, SMALL, MIXED), (("dot", 1.0),), crops=2),
)
STAGE_MODES = {"questions": MODES, "joint": JOINT_MODES}


@dataclass(frozen=True)
class Sample:
    """One question with its answer; its images are the next ``1 + crops`` of the batch.

    Attributes:
        prompt_ids: up to the beginning of the response, with one placeholder for the image.
        answer_ids: the response and its end token.
        keeps: per crop, bool ``(h, w)``: the tokens that are kept.
    """

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    keeps: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class QuestionBatch:
    """Questions about images, in some batches with crops right after the image."""

    images: JoinedImages
    samples: tuple[Sample, ...]


class QuestionBatches(Batches):
    """Batches of questions; the first ``warm_up`` without crops, on large objects."""

    def __init__(
        self, backbone: Backbone, seed: int, stage: str, steps: int, size: int, warm_up: int
    ) -> None:
        super().__init__(backbone, seed, stage, steps, size)
        self.warm_up = warm_up

    def __getitem__(self, step: int) -> QuestionBatch:
        rng = self.rng(step)
        modes = WARM_UP if step < self.warm_up else STAGE_MODES[self.stage]
        mode = rng.choices(modes, [m.weight for m in modes])[0]
        topics, weights = zip(*mode.topics, strict=True)
        inputs: list[ImageInput] = []
        samples: list[Sample] = []
        for _ in range(self.size):
            scene = make_scene(rng, rng.choice(mode.scenes))
            question = ask(rng, scene, rng.choices(topics, weights)[0])
            image = render(scene)
            inputs.append(model_input(self.backbone, image, FULL_BOX))
            keeps = []
            for box in _crops(rng, scene, question, mode):
                crop = model_input(self.backbone, image, box)
                inputs.append(crop)
                keeps.append(_kept(rng, box, question, crop, mode))
            samples.append(replace(self._sample(question), keeps=tuple(keeps)))
        return QuestionBatch(JoinedImages.of(inputs), tuple(samples))

    def _sample(self, question: Question) -> Sample:
        answer = self.backbone.tokenize_response(question.answer)
        end = self.backbone.tokenizer.eos_token_id
        return Sample(tuple(self.backbone.tokenize(question.text, 1)), (*answer, end), ())


def model_input(backbone: Backbone, image: Image.Image, box: Box) -> ImageInput:
    """Preprocess the whole image, or one box of it as a crop."""
    if box == FULL_BOX:
        return backbone.preprocess(image)
    return backbone.preprocess_crop(image.crop(box))


def _crops(rng: random.Random, scene: Scene, question: Question, mode: Mode) -> list[Box]:
    crops = [training_crop(rng, question.shape) for _ in range(min(mode.crops, 1))]
    crops += [
        rng.choice((stray_crop(rng), training_crop(rng, rng.choice(scene.shapes))))
        for _ in range(mode.crops - 1)
    ]
    rng.shuffle(crops)
    return crops


def _kept(
    rng: random.Random, box: Box, question: Question, crop: ImageInput, mode: Mode
) -> torch.Tensor:
    if not mode.drop_tokens:
        return torch.ones(crop.geometry.grid, dtype=torch.bool)
    return torch.from_numpy(kept_tokens(rng, box, question.shape, crop.geometry))


def loader(batches: Batches, start: int) -> DataLoader[Any]:
    """Load the batches from step ``start`` on, prefetched by one worker process."""
    steps = range(start, len(batches))
    return DataLoader(
        batches, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=PREFETCH
    )

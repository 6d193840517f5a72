"""Training batches, each a pure function of (seed, step), so that a run can stop and resume."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from .model import IMAGE, PROMPT
from .questions import Question, ask
from .scenes import Scene, SceneSpec, make_scene, render, render_index
from .views import (
    FULL_BOX,
    GRID,
    kept_tokens,
    patch_labels,
    show,
    stray_crop,
    training_crop,
)

IGNORE = -100
PREFETCH = 4

ANY_SIZE = SceneSpec(count=(1, 6), width=(0.045, 0.30))
CROWDED = SceneSpec(count=(3, 6), width=(0.12, 0.27))
SMALL = SceneSpec(count=(1, 6), width=(0.04, 0.10))
LARGE = SceneSpec(count=(1, 5), width=(0.16, 0.28))
MIXED = SceneSpec(count=(2, 6), width=(0.045, 0.22))


class Batches(Dataset[Any]):
    """``steps`` batches of ``size``; batch i is a function of (seed, stage, i) alone."""

    def __init__(self, seed: int, stage: str, steps: int, size: int) -> None:
        self.seed, self.stage, self.steps, self.size = seed, stage, steps, size

    def __len__(self) -> int:
        return self.steps

    def rng(self, step: int) -> random.Random:
        """The source of all randomness of one batch."""
        return random.Random(f"pretrain/{self.stage}/{self.seed}/{step}")


class PatchBatches(Batches):
    """Stage 1 and 2: views of scenes and their per-patch labels.

    An item is uint8: pixels (n, 3, s, s), labels and label mask (n, GRID * GRID, LABEL_COUNT).
    """

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        rng = self.rng(step)
        views: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        counts: list[np.ndarray] = []
        while len(views) < self.size:
            scene = make_scene(rng, rng.choice((ANY_SIZE, CROWDED, SMALL)))
            image, index = render(scene), render_index(scene)
            boxes = [None, training_crop(rng, rng.choice(scene.shapes))]
            for box in boxes:
                views.append(show(image, box))
                patch, counted = patch_labels(scene, index, box or FULL_BOX)
                labels.append(patch.reshape(GRID * GRID, -1))
                counts.append(counted.reshape(GRID * GRID, -1))
        return tuple(torch.from_numpy(np.stack(a)) for a in (views, labels, counts))


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


class QuestionBatches(Batches):
    """Stage 3: questions about pictures, in some batches with crops right after the picture.

    An item holds ``pixels`` uint8 (images, 3, s, s), ``kept`` bool (images, GRID * GRID) for the
    visual tokens that stay, ``ids`` and ``labels`` (n, length), right-padded; ``labels`` are
    ``IGNORE`` but for the answer and its end.
    """

    def __init__(
        self,
        seed: int,
        stage: str,
        steps: int,
        size: int,
        warm_up: int,
        tokenizer: PreTrainedTokenizerFast,
    ) -> None:
        super().__init__(seed, stage, steps, size)
        self.warm_up = warm_up
        self.tokenizer = tokenizer

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = self.rng(step)
        modes = WARM_UP if step < self.warm_up else STAGE_MODES[self.stage]
        mode = rng.choices(modes, [m.weight for m in modes])[0]
        topics, weights = zip(*mode.topics, strict=True)
        views, kept, rows = [], [], []
        for _ in range(self.size):
            scene = make_scene(rng, rng.choice(mode.scenes))
            question = ask(rng, scene, rng.choices(topics, weights)[0])
            sample_views, sample_kept = _views(rng, scene, question, mode)
            views += sample_views
            kept += sample_kept
            visual = int(sum(k.sum() for k in sample_kept))
            rows.append(encode(self.tokenizer, question, visual))
        length = max(len(ids) for ids, _ in rows)
        ids = torch.full((self.size, length), self.tokenizer.pad_token_id)
        labels = torch.full((self.size, length), IGNORE)
        for i, (row, answer) in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            labels[i, len(row) - answer : len(row)] = torch.tensor(row[-answer:])
        return {
            "pixels": torch.from_numpy(np.stack(views)),
            "kept": torch.from_numpy(np.stack(kept)).flatten(1),
            "ids": ids,
            "labels": labels,
        }


def _views(
    rng: random.Random, scene: Scene, question: Question, mode: Mode
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The picture and its crops, and which visual tokens of each are kept."""
    image = render(scene)
    crops = [training_crop(rng, question.shape) for _ in range(min(mode.crops, 1))]
    crops += [
        rng.choice((stray_crop(rng), training_crop(rng, rng.choice(scene.shapes))))
        for _ in range(mode.crops - 1)
    ]
    rng.shuffle(crops)
    everything = np.ones((GRID, GRID), bool)
    kept = [kept_tokens(rng, c, question.shape) if mode.drop_tokens else everything for c in crops]
    return [show(image), *(show(image, crop) for crop in crops)], [everything, *kept]


def encode(
    tokenizer: PreTrainedTokenizerFast, question: Question, visual_tokens: int
) -> tuple[list[int], int]:
    """Token ids of prompt and answer, and how many of them, at the end, are the answer's."""
    prompt = PROMPT.format(images=IMAGE * visual_tokens, question=question.text)
    ids = tokenizer(prompt)["input_ids"]
    answer = tokenizer(question.answer, add_special_tokens=False)["input_ids"]
    answer.append(tokenizer.eos_token_id)
    return ids + answer, len(answer)


def loader(batches: Batches, start: int) -> DataLoader[Any]:
    """The batches from step ``start`` on, made ahead by one worker process."""
    steps = range(start, len(batches))
    return DataLoader(
        batches, batch_size=None, sampler=steps, num_workers=1, prefetch_factor=PREFETCH
    )

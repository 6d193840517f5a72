"""Batches of questions about images, in most of them with crops."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from sdrpn_core.backbone.question import ImageInput
from sdrpn_glyphs.batches import Batches, JoinedImages, view
from sdrpn_glyphs.dataset import ANY, HIDDEN, SHOWN
from sdrpn_glyphs.patch_labels import patch_labels
from sdrpn_glyphs.questions import ASKERS, Question
from sdrpn_glyphs.scenes import SceneSpec, render, render_index
from sdrpn_glyphs.shapes import Box
from sdrpn_glyphs.training_crops import kept_tokens, object_crop, wrong_crop


@dataclass(frozen=True)
class Mode:
    """One kind of batch: widths of the asked objects, topics with weights, crops per question.

    Attributes:
        weight: how often it is drawn.
        widths: one is drawn per question.
        topics: with weights.
        crops: per question.
        drops_tokens: drop tokens of the crop, as region masks do.
    """

    weight: float
    widths: tuple[tuple[float, float], ...]
    topics: MappingProxyType[str, float]
    crops: int = 0
    drops_tokens: bool = False


def _topics(**weights: float) -> MappingProxyType[str, float]:
    return MappingProxyType(weights)


_DETAILS = {"dot": 0.25, "character": 0.35, "arrow": 0.15, "pips": 0.25}

MODES = (
    Mode(
        0.34,
        (SHOWN, SHOWN, ANY),
        _topics(
            dot=0.15,
            character=0.3,
            arrow=0.1,
            pips=0.15,
            pair=0.08,
            exists=0.1,
            absent=0.12,
        ),
    ),
    Mode(
        0.36,
        (HIDDEN, HIDDEN, ANY),
        _topics(**_DETAILS, exists=0.04, absent=0.08),
        crops=1,
    ),
    Mode(0.06, (HIDDEN, ANY), _topics(**_DETAILS), crops=1, drops_tokens=True),
    Mode(
        0.24,
        (HIDDEN, HIDDEN, ANY),
        _topics(pair=0.7, dot=0.06, character=0.1, pips=0.06, absent=0.08),
        crops=2,
    ),
)


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
    """Questions about images, in some batches with crops right after the image.

    Attributes:
        images: with the crops.
        samples: the questions.
        topics: per question.
        labels: uint8 ``(cells, LABEL_COUNT)``, 0 or 1: what all cells of the images show.
        known: the same shape: which labels are known.
    """

    images: JoinedImages
    samples: tuple[Sample, ...]
    topics: tuple[str, ...]
    labels: torch.Tensor
    known: torch.Tensor


class QuestionBatches(Batches):
    """Batches of one mode each."""

    def __getitem__(self, step: int) -> QuestionBatch:
        rng = self.rng(step)
        (mode,) = rng.choices(MODES, [one.weight for one in MODES])
        inputs: list[ImageInput] = []
        samples: list[Sample] = []
        topics: list[str] = []
        labels: list[np.ndarray] = []
        known: list[np.ndarray] = []
        for _ in range(self.size):
            (topic,) = rng.choices(list(mode.topics), list(mode.topics.values()))
            question = ASKERS[topic](rng, SceneSpec(rng.choice(mode.widths)))
            scene = question.scene
            image, index = render(scene), render_index(scene)
            keeps = []
            crops = _crops(rng, question, mode.crops)
            for box in (scene.full_box, *crops):
                given = view(self.backbone, image, box)
                inputs.append(given)
                patch, is_known = patch_labels(scene, index, box, given.geometry)
                labels.append(patch)
                known.append(is_known)
            for box, crop in zip(crops, inputs[len(inputs) - len(crops) :], strict=True):
                keep = np.ones(crop.geometry.grid, bool)
                if mode.drops_tokens:
                    keep = kept_tokens(rng, box, question.objects[0], crop.geometry)
                keeps.append(torch.from_numpy(keep))
            samples.append(self._sample(question, keeps))
            topics.append(question.topic)
        return QuestionBatch(
            JoinedImages.of(inputs),
            tuple(samples),
            tuple(topics),
            torch.from_numpy(np.concatenate(labels)),
            torch.from_numpy(np.concatenate(known)),
        )

    def _sample(self, question: Question, keeps: list[torch.Tensor]) -> Sample:
        answer = self.backbone.tokenize_response(question.answer)
        end = self.backbone.tokenizer.eos_token_id
        prompt = self.backbone.tokenize(question.text, 1)
        return Sample(tuple(prompt), (*answer, end), tuple(keeps))


def _crops(rng: random.Random, question: Question, count: int) -> list[Box]:
    """Crops of the asked objects, in any order, filled up with wrong ones."""
    scene = question.scene
    crops = [object_crop(rng, scene, one) for one in question.objects[:count]]
    crops += [wrong_crop(rng, scene) for _ in range(count - len(crops))]
    rng.shuffle(crops)
    return crops

"""From samples to what the RPN is trained on: branch features, places of the images, labels.

The backbone is frozen: it runs without gradients, once per sample, and the backward pass of the RPN
never comes back to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import InputError
from sdrpn_core.labels.pseudo import IGNORE
from sdrpn_core.runtime.block import image_places
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.taps.feature_tap import Features, FeatureTap
from sdrpn_core.taps.response_attention import (
    read_given_responses_and_features,
    recipe_heads,
    recipe_maps,
)
from sdrpn_core.training.samples import TrainingSample

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.labels.pseudo import PseudoLabeler
    from sdrpn_core.runtime.block import Block, ImagePlace


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """One micro-batch, one image per row.

    Attributes:
        features: what reached the branch layer.
        block: the sequences whose features these are.
        places: where the images and the queries lie in it.
        labels: ``(images, n)``, row-major, -100 where a cell is ignored and behind smaller grids:
            int64 in {0, 1}, or float32 in [0, 1].
        grids: per image the ``(h, w)`` of its labels. It need not be that of its visual tokens:
            labels may come from another resolution.
    """

    features: Features
    block: Block
    places: list[ImagePlace]
    labels: torch.Tensor
    grids: list[tuple[int, int]]


#: Turns samples, of the one kind that it takes, into a batch for an objective; no gradient flows
#: through it.
Batcher: TypeAlias = Callable[[Sequence[Any]], Any]


class StoredLabelBatcher:
    """Runs question prompts up to the branch layer; the samples bring their labels.

    Args:
        backbone: the frozen model.
        branch: B.
    """

    def __init__(self, backbone: Backbone, branch: int) -> None:
        self.backbone = backbone
        self.branch = branch

    @torch.no_grad()
    def __call__(self, samples: Sequence[TrainingSample]) -> TrainingBatch:
        """Make a batch.

        Raises:
            InputError: a sample comes without labels, or the backbone cannot take its image, its
                question or their length.
        """
        prompts = self.backbone.encode([Question(s.question, inputs=(s.image,)) for s in samples])
        self.backbone.check_context(max(map(len, prompts)))
        block = prompt_block(self.backbone, prompts)
        features = self.branch_features(block)
        labels = []
        for sample in samples:
            if sample.labels is None:
                raise InputError(f"record {sample.id!r} comes without labels")
            labels.append(sample.labels)
        return make_batch(features, block, image_places(prompts, block), labels)

    def branch_features(self, block: Block) -> Features:
        """What reaches the branch layer; the pass ends there."""
        with FeatureTap(self.backbone.decoder, self.branch) as tap:
            return tap.run(**block.model_inputs())


class AnsweredRecordBatcher:
    """Reads the attention of given responses in the same forward pass as the features.

    Args:
        backbone: the frozen model.
        branch: B.
        labeler: makes labels from the maps of its recipe's heads.
    """

    def __init__(self, backbone: Backbone, branch: int, labeler: PseudoLabeler) -> None:
        self.backbone = backbone
        self.branch = branch
        self.labeler = labeler

    @torch.no_grad()
    def __call__(self, samples: Sequence[TrainingSample]) -> TrainingBatch:
        """Make a batch.

        Raises:
            InputError: the backbone cannot take an image, a question, a response or their length.
            AttentionError: the attention of a sample is NaN or infinite.
        """
        questions = [
            Question(
                s.question,
                response_ids=self.backbone.tokenize_response(s.response or ""),
                inputs=(s.image,),
            )
            for s in samples
        ]
        prompts = self.backbone.encode(questions)
        self.backbone.check_context(max(map(len, prompts)))
        recipe = self.labeler.recipe
        readings, block, features = read_given_responses_and_features(
            self.backbone,
            prompts,
            recipe_heads(recipe),
            self.branch,
            max_rows=recipe.response_rows,
        )
        labels = []
        for prompt, reading in zip(prompts, readings, strict=True):
            image = prompt.images[0]
            if not reading.n_rows or image.geometry is None:
                labels.append(np.full(image.grid, IGNORE, dtype=np.int64))
                continue
            grounding, sink = recipe_maps(recipe, reading.maps[0])
            content = image.geometry.content()
            labels.append(self.labeler(grounding, sink if recipe.sink else None, content).labels)
        return make_batch(features, block, image_places(prompts, block), labels)


def make_batch(
    features: Features,
    block: Block,
    places: list[ImagePlace],
    labels: Sequence[npt.NDArray[Any]],
) -> TrainingBatch:
    """A batch from its parts.

    Args:
        features: what reached the branch layer.
        block: the sequences whose features these are.
        places: where the images and the queries lie in it, one per row.
        labels: per image ``(h, w)`` int64 or float32, of one kind for all.
    """
    size = max(grid.size for grid in labels)
    padded = np.full((len(labels), size), IGNORE, dtype=labels[0].dtype)
    for row, grid in enumerate(labels):
        padded[row, : grid.size] = grid.ravel()
    return TrainingBatch(
        features,
        block,
        places,
        torch.from_numpy(padded).to(block.mask.device),
        [(rows, columns) for rows, columns in (grid.shape for grid in labels)],
    )

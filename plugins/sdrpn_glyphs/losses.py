"""The losses of the training stages, and the forward passes that they need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from sdrpn_core.backbone.prompt import ImageSegment, Prompt, Segment, TextSegment
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.grid.geometry import Resized
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_glyphs.patch_labels import LABELS

if TYPE_CHECKING:
    from sdrpn_core import Backbone
    from sdrpn_glyphs.batches import JoinedImages
    from sdrpn_glyphs.question_batches import QuestionBatch, Sample

Measures = dict[str, list[float]]
"""What a step is measured by: one value, or one per question."""

PRESENCE_WEIGHT = 3.0
"""Weight of the loss for whether a patch shows a color at all."""


def cell_loss(
    scores: torch.Tensor, labels: torch.Tensor, known: torch.Tensor
) -> tuple[torch.Tensor, Measures]:
    """Compute the loss of scores ``(cells, LABEL_COUNT)``, and the accuracies per group of labels.

    Binary cross-entropy for the colors on every cell, so that the background gets none, and
    cross-entropy for each group on the cells with exactly one of its labels. The accuracies are
    those on these cells.
    """
    scores = scores.float()
    colors = LABELS["color"]
    presence = F.binary_cross_entropy_with_logits(scores[:, colors], labels[:, colors].float())
    loss = PRESENCE_WEIGHT * presence
    accuracy = {}
    for group, part in LABELS.items():
        own = labels[:, part] * known[:, part]
        single = own.sum(-1) == 1
        if not single.any():
            continue
        score, truth = scores[single, part], own[single].argmax(-1)
        loss = loss + F.cross_entropy(score, truth)
        accuracy[f"cells: {group}"] = [(score.argmax(-1) == truth).float().mean().item()]
    return loss, accuracy


def visual_tokens(backbone: Backbone, images: JoinedImages) -> list[torch.Tensor]:
    """Encode images: per image, its visual tokens ``(h * w, width)``."""
    # Several images in one input: the geometry of a single one is not read.
    (grid, *_) = images.grids
    joined = ImageInput(images.tensors, Resized((1, 1), grid, cell=1))
    return backbone.image_features([joined])


def answer_logits(
    backbone: Backbone, batch: QuestionBatch, tokens: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``(tokens, vocabulary)`` and labels ``(tokens,)`` of the answer tokens.

    Args:
        backbone: the model.
        batch: questions about images.
        tokens: these images' visual tokens.
    """
    features = iter(zip(tokens, batch.images.grids, strict=True))
    prompts = [_prompt(backbone, sample, features) for sample in batch.samples]
    block = prompt_block(backbone, prompts)
    hidden = backbone.decoder(**block.model_inputs()).last_hidden_state
    # Every row ends with its answer, whose tokens the positions before them predict.
    wanted = [
        hidden[row, -len(sample.answer_ids) - 1 : -1] for row, sample in enumerate(batch.samples)
    ]
    labels = [token for sample in batch.samples for token in sample.answer_ids]
    return backbone.model.get_output_embeddings()(torch.cat(wanted)), torch.tensor(labels)


def _prompt(
    backbone: Backbone, sample: Sample, features: Iterator[tuple[torch.Tensor, tuple[int, int]]]
) -> Prompt:
    image_index = sample.prompt_ids.index(backbone.image_token_id)
    tokens, grid = next(features)
    segments: list[Segment] = [ImageSegment(tokens, grid)]
    for keep in sample.keeps:
        tokens, grid = next(features)
        segments += backbone.frame_crop(ImageSegment(tokens[keep.flatten()], grid, keep=keep))
    after = TextSegment((*sample.prompt_ids[image_index + 1 :], *sample.answer_ids))
    before = sample.prompt_ids[:image_index]
    return Prompt((*([TextSegment(before)] if before else []), *segments, after))

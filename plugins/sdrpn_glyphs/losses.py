"""What the training stages minimise, and the forward passes behind it."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from .batches import IGNORE
from .model import normalise
from .views import LABELS

Measures = dict[str, float]

PRESENCE_WEIGHT = 3.0
"""Weight of telling which patches hold a color at all."""


def patch_loss(
    scores: dict[str, torch.Tensor], labels: torch.Tensor, counts: torch.Tensor
) -> tuple[torch.Tensor, Measures]:
    """Loss of scores {group: (n, patches, labels of the group)}, and each group's accuracy.

    Binary cross-entropy for the colors on every patch, so that the background has none, and
    cross-entropy for each group on the patches that hold one label of it; so is the accuracy.
    """
    presence = labels[..., LABELS["color"]].float()
    loss = PRESENCE_WEIGHT * F.binary_cross_entropy_with_logits(scores["color"], presence)
    accuracy = {}
    for group, score in scores.items():
        own = labels[..., LABELS[group]] * counts[..., LABELS[group]]
        single = own.sum(-1) == 1
        score, truth = score[single], own[single].argmax(-1)
        loss = loss + F.cross_entropy(score, truth)
        accuracy[group] = (score.argmax(-1) == truth).float().mean().item()
    return loss, accuracy


def vision_features(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """What the projector is handed: (n, GRID * GRID, vision width)."""
    outputs = model.model.vision_tower(normalise(pixels), output_hidden_states=True)
    return outputs.hidden_states[model.config.vision_feature_layer][:, 1:]


def answer_logits(
    model: LlavaForConditionalGeneration, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels (tokens,) at the positions that predict an answer token.

    Right padding needs no mask under causal attention.
    """
    features = vision_features(model, batch["pixels"])
    visual = model.model.multi_modal_projector(features)[batch["kept"]]
    embeds = model.get_input_embeddings()(batch["ids"])
    places = (batch["ids"] == model.config.image_token_id).unsqueeze(-1)
    embeds = embeds.masked_scatter(places, visual)
    hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    labels = batch["labels"][:, 1:]
    wanted = labels != IGNORE
    return model.lm_head(hidden[:, :-1][wanted]), labels[wanted]

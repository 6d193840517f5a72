"""Crops in their place: prompts with the tokens of crops, and what stays of the cached prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.pruning import n_unchanged, without_costly_pruning
from sdrpn_core.backbone.adapter_parts import checked_frame

if TYPE_CHECKING:
    from sdrpn_core.answering.prefix import Prefix
    from sdrpn_core.answering.proposer import Proposal
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.backbone.question import Question


def insert_crops(
    backbone: Backbone,
    questions: Sequence[Question],
    prompts: Sequence[Prompt],
    proposals: Sequence[Sequence[Proposal]],
) -> list[tuple[Prompt, list[Proposal]]]:
    """Prompts with the tokens of crops and without pruned ones, and the remaining proposals.

    Args:
        backbone: the model.
        questions: whose images are cropped.
        prompts: the same, encoded.
        proposals: per question one per image.
    """
    jobs = [
        (image, proposal.plan)
        for question, row in zip(questions, proposals, strict=True)
        for image, proposal in zip(question.images, row, strict=True)
    ]
    encoded = iter(encode_crops(backbone, jobs))
    cropped = []
    for prompt, row in zip(prompts, proposals, strict=True):
        results = [next(encoded) for _ in row]
        crops = tuple(
            tuple(
                part
                for segment in segments
                for part in checked_frame(backbone.frame_crop(segment), backbone.name)
            )
            for _, segments in results
        )
        plans = without_costly_pruning(prompt, [plan for plan, _ in results], backbone.n_layers)
        pruned = prompt.pruned(tuple(plan.keep for plan in plans))
        kept = [replace(old, plan=plan) for old, plan in zip(row, plans, strict=True)]
        cropped.append((pruned.with_crops(crops), kept))
    return cropped


def n_reused(prompt: Prompt, prefix: Prefix, proposals: Sequence[Proposal]) -> int:
    """How many of a prompt's first tokens keep their keys and values in the second pass.

    Args:
        prompt: without crops.
        prefix: the part of it that has run.
        proposals: one per image.
    """
    plans = [proposal.plan for proposal in proposals]
    if any(plan.crops or plan.keep is not None for plan in plans):
        return n_unchanged(prompt, plans)
    # The last token always runs: its logits choose the first token of the response.
    return min(len(prefix), len(prompt) - 1)

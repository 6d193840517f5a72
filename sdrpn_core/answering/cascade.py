"""Answer plainly first, and look closer only where that answer is unsure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.answering.crop_insertion import n_reused
from sdrpn_core.answering.passes import BatchRule, first_pass, second_pass, with_crops
from sdrpn_core.answering.prefill import Prefill, prefill
from sdrpn_core.answering.proposals import proposals_of
from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.answering.results import Answer, PendingAnswer
from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.crops.policy import CropPlan, Outcome
from sdrpn_core.runtime.clock import StageClock

if TYPE_CHECKING:
    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.answering.proposer import Proposer
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.backbone.question import Question

_SURE = CropPlan(Outcome.NOT_NEEDED, reason="the plain answer is sure enough")


def start_answers(
    backbone: Backbone,
    questions: Sequence[Question],
    proposer: Proposer | None,
    *,
    confidence_threshold: float | None,
    store: PrefixStore | None,
    rule: BatchRule,
    generation: Mapping[str, Any],
) -> list[PendingAnswer | Answer]:
    """Take a batch to where only its second pass is missing, if it needs one.

    With a threshold the questions are answered plainly first, and answers whose tokens all reach it
    stay. The proposer is asked about the others only. Both answers go on behind the same prefixes.
    Of a question's two answers the surer one stays, except after a coarse first look (with fewer
    visual tokens than the processor gives by itself), where a model is surer than it is right: with
    an embedded model at 64 instead of 92 visual tokens, choosing lost 1.9 points on 800 questions
    of ``glyphs/train``; with the three embedded models at their own resolution, it lost none there,
    and gained 3 on ``glyphs/absent``.

    Args:
        backbone: the model.
        questions: a batch, one or more.
        proposer: where crops come from; ``None`` for plain answers.
        confidence_threshold: probability that every token of a plain answer must reach; ``None``
            looks without asking for it.
        store: prefixes of earlier calls; those of this one are added.
        rule: which sequences may go through the model together.
        generation: arguments of :func:`~sdrpn_core.runtime.generation.generate`.

    Raises:
        ConfigError: see :func:`~sdrpn_core.answering.prefill.prefill`.
        InputError: an empty question, or a prompt that exceeds the model's context.
    """
    if proposer is None or confidence_threshold is None:
        return first_pass(
            backbone,
            questions,
            proposer,
            store=store,
            max_padding=rule.max_padding,
            generation=generation,
        )
    return _plain_first(
        backbone, questions, proposer, confidence_threshold, store, rule, generation
    )


@torch.no_grad()
def _plain_first(
    backbone: Backbone,
    questions: Sequence[Question],
    proposer: Proposer,
    threshold: float,
    store: PrefixStore | None,
    rule: BatchRule,
    generation: Mapping[str, Any],
) -> list[PendingAnswer | Answer]:
    state = prefill(backbone, questions, proposer.reader, store=store, max_padding=rule.max_padding)
    plain = _plain_answers(state, rule, generation)
    started: list[PendingAnswer | Answer] = list(plain)
    unsure = [
        index
        for index, (prompt, one) in enumerate(zip(state.prompts, plain, strict=True))
        if prompt.images and not _is_sure(one, threshold)
    ]
    if not unsure:
        return started
    part = replace(state.part(unsure), clock=StageClock(backbone.device))
    with part.clock.stage("proposal"):
        proposals = proposals_of(proposer, part, store)
    for index, one in zip(unsure, with_crops(backbone, part, proposals), strict=True):
        is_coarse = _is_coarse(backbone, questions[index], state.prompts[index])
        one = replace(one, plain=plain[index], compares=not is_coarse)
        started[index] = one if _has_crops(one) else _without_crops(backbone, one, plain[index])
    return started


def _is_sure(plain: Answer, threshold: float) -> bool:
    """Whether a plain answer stays; never at 1, which a probability can reach by rounding."""
    return threshold < 1 and (plain.confidence or 0.0) >= threshold


def _is_coarse(backbone: Backbone, question: Question, prompt: Prompt) -> bool:
    """Whether the model saw less of an image than without a budget; one may change nothing."""
    if question.first_look_tokens is None:
        return False
    preprocess = Preprocessor(backbone)
    return any(
        math.prod(geometry.grid) < math.prod(preprocess(image).geometry.grid)
        for geometry, image in zip(prompt.geometries, question.images, strict=True)
    )


def _plain_answers(state: Prefill, rule: BatchRule, generation: Mapping[str, Any]) -> list[Answer]:
    seconds = state.clock.shares(len(state.questions))
    pending = []
    for prompt, prefix in zip(state.prompts, state.prefixes, strict=True):
        sure = tuple(Proposal(_SURE) for _ in prompt.images)
        kept = n_reused(prompt, prefix, sure)
        pending.append(PendingAnswer(prompt, prefix, kept, sure, "prefill", seconds))
    answers: dict[int, Answer] = {}
    for batch in rule.batches(pending):
        found = second_pass(
            state.backbone, [pending[index] for index in batch], with_confidence=True, **generation
        )
        answers.update(zip(batch, found, strict=True))
    return [answers[index] for index in range(len(pending))]


def _has_crops(pending: PendingAnswer) -> bool:
    return any(proposal.plan.crops for proposal in pending.proposals)


def _without_crops(backbone: Backbone, pending: PendingAnswer, plain: Answer) -> Answer:
    """The plain answer, with what was proposed: the same again would come of a second pass."""
    found = Answer.from_ids(backbone, pending.prompt, plain.ids, pending.proposals, pending.seconds)
    return pending.settled(replace(found, confidence=plain.confidence))

"""Answer plainly first, and look closer only where that answer is unsure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.answering.confidence import TokenProbabilities
from sdrpn_core.answering.crop_insertion import n_reused
from sdrpn_core.answering.passes import BatchRule, second_pass, with_crops
from sdrpn_core.answering.prefill import Prefill, prefill
from sdrpn_core.answering.proposer import Proposal
from sdrpn_core.answering.results import Answer, PendingAnswer
from sdrpn_core.crops.policy import CropPlan, Outcome
from sdrpn_core.runtime.clock import StageClock

if TYPE_CHECKING:
    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.answering.proposer import Proposer
    from sdrpn_core.backbone.adapter import Backbone, Question

_SURE = CropPlan(Outcome.NOT_NEEDED, reason="the plain answer is sure enough")


@torch.no_grad()
def answer_in_cascade(
    backbone: Backbone,
    questions: Sequence[Question],
    proposer: Proposer,
    threshold: float,
    *,
    store: PrefixStore | None,
    rule: BatchRule,
    generation: Mapping[str, Any],
) -> list[Answer]:
    """Answer a batch plainly, and again with crops where the least likely token is below.

    The images run once: both answers go on behind the same prefixes. Where the plain answer is sure
    enough, or there is no image, the proposer is not asked; where nothing is cropped, the plain
    answer stays.

    Args:
        backbone: the model.
        questions: a batch, one or more.
        proposer: where crops come from.
        threshold: probability that every token of a plain answer must reach.
        store: prefixes of earlier calls; those of this one are added.
        rule: which sequences may go through the model together.
        generation: arguments of :func:`~sdrpn_core.runtime.generation.generate`.

    Raises:
        ConfigError: see :func:`~sdrpn_core.answering.prefill.prefill`.
        InputError: an empty question, or a prompt that exceeds the model's context.
    """
    state = prefill(backbone, questions, proposer.reader, store=store, max_padding=rule.max_padding)
    answers = _finish(backbone, _plain(state), rule, generation)
    unsure = [
        index
        for index, (prompt, one) in enumerate(zip(state.prompts, answers, strict=True))
        if prompt.images and (one.confidence or 0.0) < threshold
    ]
    if not unsure:
        return answers
    part = replace(state.part(unsure), clock=StageClock(backbone.device))
    with part.clock.stage("proposal"):
        proposals = proposer.propose(part)
    pending = dict(zip(unsure, with_crops(backbone, part, proposals), strict=True))
    cropped = {index: one for index, one in pending.items() if _has_crops(one)}
    looked = dict(
        zip(cropped, _finish(backbone, list(cropped.values()), rule, generation), strict=True)
    )
    for index, one in pending.items():
        first = answers[index]
        found = looked.get(index) or Answer.from_ids(
            backbone, one.prompt, first.ids, one.proposals, one.seconds
        )
        answers[index] = replace(
            found,
            confidence=first.confidence,
            seconds=_sum_of(first.seconds, found.seconds),
        )
    return answers


def _has_crops(pending: PendingAnswer) -> bool:
    return any(proposal.plan.crops for proposal in pending.proposals)


def _plain(state: Prefill) -> list[PendingAnswer]:
    seconds = state.clock.shares(len(state.questions))
    pending = []
    for prompt, prefix in zip(state.prompts, state.prefixes, strict=True):
        sure = tuple(Proposal(_SURE) for _ in prompt.images)
        kept = n_reused(prompt, prefix, sure)
        pending.append(PendingAnswer(prompt, prefix, kept, sure, "prefill", seconds))
    return pending


def _finish(
    backbone: Backbone,
    pending: Sequence[PendingAnswer],
    rule: BatchRule,
    generation: Mapping[str, Any],
) -> list[Answer]:
    """Generate the responses, and how sure they are."""
    answers: dict[int, Answer] = {}
    for batch in rule.batches(pending):
        recorder = TokenProbabilities()
        processors = [recorder, *generation.get("logits_processor", ())]
        found = second_pass(
            backbone,
            [pending[index] for index in batch],
            **{**generation, "logits_processor": processors},
        )
        least = recorder.least([one.ids for one in found])
        for index, one, confidence in zip(batch, found, least, strict=True):
            answers[index] = replace(one, confidence=confidence)
    return [answers[index] for index in range(len(pending))]


def _sum_of(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in {**one, **other}}

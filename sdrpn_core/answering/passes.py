"""The two passes of an answer: up to the proposed regions, and from there to the response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.answering.confidence import TokenProbabilities
from sdrpn_core.answering.crop_insertion import insert_crops, n_reused
from sdrpn_core.answering.encoding import encode_questions
from sdrpn_core.answering.plain_answer import ProposedRegions, try_plain_answer
from sdrpn_core.answering.prefill import run_encoded
from sdrpn_core.answering.prefix import prefix_block, prefix_cache
from sdrpn_core.answering.proposals import proposals_of
from sdrpn_core.answering.results import Answer, PendingAnswer
from sdrpn_core.runtime.buckets import buckets
from sdrpn_core.runtime.clock import StageClock
from sdrpn_core.runtime.generate_options import STATIC, reads_prompts
from sdrpn_core.runtime.generation import generate, prompt_block

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.answering.proposer import Proposal, Proposer
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.question import Question


@dataclass(frozen=True)
class BatchRule:
    """Which sequences may go through the model together.

    Attributes:
        max_padding: largest share of a batch that may be padding.
        holes: whether padding may lie behind a cached prefix.
    """

    max_padding: float
    holes: bool = True

    @classmethod
    def of(cls, backbone: Backbone, max_padding: float, generation: Mapping[str, Any]) -> BatchRule:
        """The rule for a backbone: its windows, and what reads prompts, take padding for tokens.

        Args:
            backbone: the model.
            max_padding: what padding may cost.
            generation: arguments of ``generate()``.
        """
        if reads_prompts(backbone.model.generation_config, generation):
            return cls(0.0, holes=False)
        return cls(max_padding, holes=not backbone.has_windows)

    def batches(self, pending: Sequence[PendingAnswer]) -> list[list[int]]:
        """The indices of answers that may take their second pass together."""
        lengths = [one.lengths for one in pending]
        return buckets(lengths, len(pending), self.max_padding, holes=self.holes)


@torch.no_grad()
def first_pass(
    backbone: Backbone,
    questions: Sequence[Question],
    proposer: Proposer | None,
    *,
    store: PrefixStore | None,
    max_padding: float,
    generation: Mapping[str, Any],
) -> list[PendingAnswer | Answer]:
    """Encode questions, run their prefixes, ask the proposer, and encode the crops.

    Plain answers need no proposal; their prefixes run only where they are shared. Short questions
    that share no prefix run together with theirs; if the proposer then finds no region in the
    whole batch, they are answered at once.

    Args:
        backbone: the model.
        questions: a batch, one or more.
        proposer: where crops come from; ``None`` for plain answers.
        store: prefixes of other batches.
        max_padding: largest share of padding where prefixes run together.
        generation: arguments of :func:`~sdrpn_core.runtime.generation.generate`, for questions
            that are answered at once.

    Returns:
        Per question a pending answer, or the answer if no second pass is needed.

    Raises:
        ConfigError: the backbone is only partially loaded, or what is proposed cannot be cropped.
        InputError: an empty question, or a prompt (with its response) exceeds the model's context.
    """
    clock = StageClock(backbone.device)
    reader = None if proposer is None else proposer.reader
    encoded = encode_questions(backbone, questions, reader, store=store, clock=clock)
    is_own = store is None and encoded.is_unshared
    if is_own:
        if proposer is None:
            seconds = clock.shares(len(questions))
            return [
                PendingAnswer(prompt, None, 0, (), "prefill", seconds)
                for prompt in encoded.whole_prompts()
            ]
        # A streamer sees the prompt of each generation: an attempt that is given up would show.
        # A static cache has no columns that could be handed to the second pass.
        is_static = generation.get("cache_implementation") == STATIC
        may_try = reader is not None and "streamer" not in generation and not is_static
        if may_try and encoded.runs_in_one_pass(max_padding):
            attempt = try_plain_answer(
                backbone,
                questions,
                encoded.whole_prompts(),
                proposer,
                clock=clock,
                **generation,
            )
            if isinstance(attempt, ProposedRegions):
                return [*with_crops(backbone, attempt.state, attempt.proposals)]
            return [*attempt]
    state = run_encoded(
        encoded,
        reader,
        store=store,
        max_padding=max_padding,
        clock=clock,
        max_new_tokens=generation["max_new_tokens"] if is_own else None,
    )
    if proposer is None:
        seconds = clock.shares(len(questions))
        return [
            PendingAnswer(prompt, prefix, n_reused(prompt, prefix, ()), (), "prefill", seconds)
            for prompt, prefix in zip(state.prompts, state.prefixes, strict=True)
        ]
    with clock.stage("proposal"):
        proposals = proposals_of(proposer, state, store)
    return [*with_crops(backbone, state, proposals)]


def with_crops(
    backbone: Backbone, state: Prefill, proposals: Sequence[Sequence[Proposal]]
) -> list[PendingAnswer]:
    """Encode the crops and insert them into the prompts."""
    clock = state.clock
    with clock.stage("crop"):
        cropped = insert_crops(backbone, state.questions, state.prompts, proposals)
    seconds = clock.shares(len(state.questions))
    return [
        PendingAnswer(
            prompt, prefix, n_reused(plain, prefix, row), tuple(row), "roi_prefill", seconds
        )
        for (prompt, row), plain, prefix in zip(cropped, state.prompts, state.prefixes, strict=True)
    ]


@torch.no_grad()
def second_pass(
    backbone: Backbone,
    pending: Sequence[PendingAnswer],
    *,
    with_confidence: bool = False,
    **generation: Any,
) -> list[Answer]:
    """Generate the responses of a batch, reusing as much of the prefixes as the crops allow.

    Where there is a plain answer already, the surer one of the two stays.

    Args:
        backbone: the model.
        pending: a batch, one or more.
        with_confidence: whether to find out how sure the model is, which is done in any case for
            questions with a plain answer.
        generation: arguments of :func:`~sdrpn_core.runtime.generation.generate`.

    Raises:
        InputError: a prompt with its response exceeds the model's context.
    """
    clock = StageClock(backbone.device)
    reused = [one.n_reused for one in pending]
    prefix, cache = None, None
    prefixes = [one.prefix for one in pending if one.prefix is not None]
    rest = prompt_block(backbone, [one.prompt for one in pending], starts=reused)
    # A cache without a column would be taken for none.
    if any(reused):
        prefix = prefix_block(prefixes, reused)
        cache = prefix_cache(
            backbone,
            prefixes,
            reused,
            n_following=rest.length,
            max_new_tokens=generation["max_new_tokens"],
            implementation=generation.get("cache_implementation"),
        )
    recorder = None
    if with_confidence or any(one.plain is not None for one in pending):
        recorder = TokenProbabilities()
    responses = generate(
        backbone,
        rest,
        prefix=prefix,
        cache=cache,
        clock=clock,
        first_stage=pending[0].prefill_stage,
        observer=recorder,
        **generation,
    )
    seconds = clock.shares(len(pending))
    answers = [
        Answer.from_ids(backbone, one.prompt, ids, one.proposals, {**one.seconds, **seconds})
        for one, ids in zip(pending, responses, strict=True)
    ]
    if recorder is not None:
        sure = recorder.least(responses)
        answers = [replace(one, confidence=least) for one, least in zip(answers, sure, strict=True)]
    return [one.settled(found) for one, found in zip(pending, answers, strict=True)]

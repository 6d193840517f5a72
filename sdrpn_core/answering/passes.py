"""The two passes of an answer: up to the proposed regions, and from there to the response.

Between them a question is a :class:`Looked`, which is free to be answered with whichever others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.answering.crop_encoding import encode_crops
from sdrpn_core.answering.encoding import EncodedQuestions, encode_questions
from sdrpn_core.answering.plain_first import start_plainly
from sdrpn_core.answering.prefill import run_encoded
from sdrpn_core.answering.prefix import Prefix, prefix_block
from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.runtime.clock import StageClock
from sdrpn_core.runtime.generate_options import reads_prompts
from sdrpn_core.runtime.generation import generate, prompt_block
from sdrpn_core.runtime.kv_cache import join_cache

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.backbone.adapter import Backbone, Question
    from sdrpn_core.backbone.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Looked:
    """A question after the first pass.

    Attributes:
        prompt: what is to be answered, crops included.
        prefix: its beginning, as far as that has run; ``None`` if nothing has.
        n_reused: how many tokens of the prefix are those of the prompt.
        proposals: one per image; empty for a plain answer.
        first_stage: what the first pass of the second pass is called in ``Answer.seconds``.
        seconds: its share of the time so far, by stage.
        response: ids of the response, where the first pass was all that it took; else ``None``.
    """

    prompt: Prompt
    prefix: Prefix | None = None
    n_reused: int = 0
    proposals: tuple[Proposal, ...] = ()
    first_stage: str = "prefill"
    seconds: Mapping[str, float] = field(default_factory=dict)
    response: tuple[int, ...] | None = None

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens that are reused, and those that still have to run."""
        return self.n_reused, len(self.prompt) - self.n_reused


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


@torch.no_grad()
def first_pass(
    backbone: Backbone,
    questions: Sequence[Question],
    proposer: Proposer | None,
    *,
    store: PrefixStore | None,
    max_padding: float,
    generation: Mapping[str, Any],
) -> list[Looked]:
    """Encode questions, run their prefixes, ask the proposer, and encode the crops.

    For plain answers there is nothing to propose; prefixes then run only where somebody shares
    them. Short questions run along with their prefixes, if nobody shares these; where the proposer
    then finds nothing, they are answered at once.

    Args:
        backbone: the model.
        questions: a batch, one or more.
        proposer: where crops come from; ``None`` for plain answers.
        store: prefixes of other batches.
        max_padding: largest share of padding where prefixes run together.
        generation: arguments of :func:`~sdrpn_core.runtime.generation.generate`, should it come
            to that.

    Raises:
        ConfigError: the backbone was loaded in part.
        InputError: empty question, or a prompt (with a response) beyond the model's context.
    """
    clock = StageClock(backbone.device)
    reader = None if proposer is None else proposer.reader
    encoded = encode_questions(backbone, questions, reader, store=store, clock=clock)
    if store is None and encoded.is_unshared:
        if proposer is None:
            seconds = clock.shares(len(questions))
            return [Looked(prompt, seconds=seconds) for prompt in encoded.whole_prompts()]
        # A streamer is told that an answer begins: it cannot begin twice.
        may_begin = reader is not None and "streamer" not in generation
        if may_begin and encoded.is_best_run_whole(max_padding):
            return _begin_plainly(encoded, proposer, clock, generation)
    state = run_encoded(encoded, reader, store=store, max_padding=max_padding, clock=clock)
    if proposer is None:
        seconds = clock.shares(len(questions))
        return [
            Looked(prompt, prefix, len(prefix), seconds=seconds)
            for prompt, prefix in zip(state.prompts, state.prefixes, strict=True)
        ]
    with clock.stage("proposal"):
        proposals = proposer.propose(state)
    return _with_crops(backbone, state, proposals)


def _begin_plainly(
    encoded: EncodedQuestions,
    proposer: Proposer,
    clock: StageClock,
    generation: Mapping[str, Any],
) -> list[Looked]:
    """Run whole prompts; where nothing is proposed, that was the beginning of the answers."""
    prompts = encoded.whole_prompts()
    start = start_plainly(
        encoded.backbone, encoded.questions, prompts, proposer, clock=clock, **generation
    )
    if start.state is not None:
        return _with_crops(encoded.backbone, start.state, start.proposals)
    seconds = clock.shares(len(prompts))
    return [
        Looked(prompt, proposals=tuple(row), seconds=seconds, response=ids)
        for prompt, row, ids in zip(prompts, start.proposals, start.responses, strict=True)
    ]


def _with_crops(
    backbone: Backbone, state: Prefill, proposals: Sequence[Sequence[Proposal]]
) -> list[Looked]:
    """Encode the crops and put them into the prompts."""
    clock = state.clock
    with clock.stage("crop"):
        cropped = _insert_crops(backbone, state, proposals)
    seconds = clock.shares(len(state.questions))
    return [
        Looked(
            prompt,
            prefix,
            _n_reused(plain, prefix, row),
            tuple(row),
            first_stage="roi_prefill",
            seconds=seconds,
        )
        for (prompt, row), plain, prefix in zip(cropped, state.prompts, state.prefixes, strict=True)
    ]


@torch.no_grad()
def second_pass(backbone: Backbone, rows: Sequence[Looked], **options: Any) -> list[Looked]:
    """Generate the responses of a batch, on what is left of the prefixes.

    Args:
        backbone: the model.
        rows: a batch, one or more.
        options: arguments of :func:`~sdrpn_core.runtime.generation.generate`.

    Returns:
        The same with their responses, and with their share of the time added.

    Raises:
        InputError: the sequences would exceed the model's context.
    """
    clock = StageClock(backbone.device)
    reused = [row.n_reused for row in rows]
    prefix, cache = None, None
    prefixes = [row.prefix for row in rows if row.prefix is not None]
    # A cache without a column would be taken for none.
    if any(reused):
        prefix = prefix_block(prefixes, reused)
        cache = join_cache([one.keys_values for one in prefixes], reused)
    rest = prompt_block(backbone, [row.prompt for row in rows], starts=reused)
    responses = generate(
        backbone,
        rest,
        prefix=prefix,
        cache=cache,
        clock=clock,
        first_stage=rows[0].first_stage,
        **options,
    )
    new = clock.shares(len(rows))
    return [
        replace(row, prefix=None, seconds={**row.seconds, **new}, response=ids)
        for ids, row in zip(responses, rows, strict=True)
    ]


def _insert_crops(
    backbone: Backbone, state: Prefill, proposals: Sequence[Sequence[Proposal]]
) -> list[tuple[Prompt, list[Proposal]]]:
    """Prompts with their crops' tokens and without pruned ones, and the proposals that are left."""
    jobs = [
        (image, proposal.plan)
        for question, row in zip(state.questions, proposals, strict=True)
        for image, proposal in zip(question.images, row, strict=True)
    ]
    encoded = iter(encode_crops(backbone, jobs))
    cropped = []
    for prompt, row in zip(state.prompts, proposals, strict=True):
        results = [next(encoded) for _ in row]
        crops = tuple(
            tuple(part for segment in segments for part in backbone.frame_crop(segment))
            for _, segments in results
        )
        pruned = prompt.pruned(tuple(plan.keep for plan, _ in results))
        kept = [Proposal(plan, old.roi) for old, (plan, _) in zip(row, results, strict=True)]
        cropped.append((pruned.with_crops(crops), kept))
    return cropped


def _n_reused(prompt: Prompt, prefix: Prefix, proposals: Sequence[Proposal]) -> int:
    """How many tokens of what has run of a prompt the second pass leaves as they were.

    Those after a crop attend to it: with several images, the later ones run again. A pruned
    image runs again itself, as its tokens attended to those that are gone.
    """
    for (start, stop), proposal in zip(prompt.image_spans, proposals, strict=True):
        if proposal.plan.keep is not None:
            return start
        if proposal.plan.crops:
            return stop
    # The last token is always run, as the response begins with what follows it.
    return min(len(prefix), len(prompt) - 1)

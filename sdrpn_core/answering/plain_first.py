"""A first pass that is the beginning of the plain answer.

Where whole prompts run at once, ``generate()`` runs them. The proposer is asked before the first
token: if it finds nothing to look at, the plain answer is the answer, and just goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from transformers import DynamicCache

from sdrpn_core.answering.prefill import Prefill
from sdrpn_core.answering.prefix import keep_prefixes
from sdrpn_core.runtime.generation import generate, prompt_block
from sdrpn_core.taps.feature_tap import FeatureTap

if TYPE_CHECKING:
    from sdrpn_core.answering.proposer import Proposal, Proposer
    from sdrpn_core.backbone.adapter import Backbone, Question
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.runtime.clock import StageClock


class _LooksAgain(Exception):
    """Ends the plain answer before it has begun; never leaves this module."""


@dataclass(frozen=True, eq=False)
class PlainStart:
    """What the first pass led to.

    Attributes:
        proposals: per question, one per image.
        state: the whole prompts, run, if any image is to be looked at again; else ``None``, so
            that their keys and values are not held twice while the plain answer goes on.
        responses: per question the ids of the plain response; empty with a state.
    """

    proposals: list[list[Proposal]]
    state: Prefill | None
    responses: list[tuple[int, ...]]


def start_plainly(
    backbone: Backbone,
    questions: Sequence[Question],
    prompts: Sequence[Prompt],
    proposer: Proposer,
    *,
    clock: StageClock,
    **generation: Any,
) -> PlainStart:
    """Run whole prompts, ask the proposer, and answer if it has nothing to propose.

    Args:
        backbone: the model.
        questions: what is asked.
        prompts: the same, encoded; one batch.
        proposer: where crops come from; has a reader.
        clock: books the time.
        generation: arguments of :func:`~sdrpn_core.runtime.generation.generate`.

    Raises:
        ValueError: the proposer has no reader.
        InputError: a prompt and its response beyond the model's context.
    """
    reader = proposer.reader
    if reader is None:
        raise ValueError("the proposer reads nothing: run its prefixes apart")
    block = prompt_block(backbone, prompts)
    cache = DynamicCache()
    found: list[PlainStart] = []

    def look() -> None:
        features = tap.take()
        with clock.stage("proposal"):
            readings = reader.read_prefix(features, block.starts.tolist())
            prefixes = keep_prefixes(backbone, prompts, block, cache, reader, readings)
            state = Prefill(backbone, questions, prompts, prefixes, block, clock)
            proposals = proposer.propose(state)
        again = any(one.plan.crops or one.plan.keep is not None for row in proposals for one in row)
        found.append(PlainStart(proposals, state if again else None, []))
        if again:
            raise _LooksAgain

    with FeatureTap(backbone.decoder, reader.branch, stop=False) as tap:
        try:
            responses = generate(
                backbone,
                block,
                cache=cache,
                clock=clock,
                first_stage="prefix",
                after_first_pass=look,
                **generation,
            )
        except _LooksAgain:
            return found[0]
    return replace(found[0], responses=responses)

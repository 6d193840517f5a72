"""An attempt at the plain answer, given up for a second pass where the proposer finds a region.

The first pass over a short question runs the whole prompt, which is also how the plain answer
begins. So ``generate()`` runs it, and the proposer is asked from inside, before the first token is
chosen. If no image has a region, generation continues; if one has, an exception ends it.

Both pay. In one run of ``benchmarks/answer_cost.py`` (607 tokens of prefix, 22 of question, 8 of
response) an answer without a region took 1.09 times the plain answer's time this way, and 1.17
times with prefix and question apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdrpn_core.answering.prefill import Prefill
from sdrpn_core.answering.prefix import columns_with_crops, keep_prefixes
from sdrpn_core.answering.proposals import proposals_of
from sdrpn_core.answering.results import Answer
from sdrpn_core.runtime.generation import columns_needed, generate, prompt_block
from sdrpn_core.runtime.in_place_cache import full_cache
from sdrpn_core.taps.feature_tap import FeatureTap

if TYPE_CHECKING:
    from sdrpn_core.answering.proposer import Proposal, Proposer
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.backbone.question import Question
    from sdrpn_core.runtime.clock import StageClock


@dataclass(frozen=True, eq=False)
class ProposedRegions:
    """What the proposer found.

    Attributes:
        state: the whole prompts, run.
        proposals: per question, one per image.
    """

    state: Prefill
    proposals: list[list[Proposal]]


class _RegionsFound(Exception):
    """Ends the plain answer before its first token; never leaves this module."""

    def __init__(self, regions: ProposedRegions) -> None:
        super().__init__()
        self.regions = regions


def try_plain_answer(
    backbone: Backbone,
    questions: Sequence[Question],
    prompts: Sequence[Prompt],
    proposer: Proposer,
    *,
    clock: StageClock,
    **generation: Any,
) -> list[Answer] | ProposedRegions:
    """Run whole prompts, ask the proposer, and answer if it finds no region in any image.

    Args:
        backbone: the model.
        questions: what is asked.
        prompts: the same, encoded; one batch.
        proposer: where crops come from; has a reader.
        clock: times the stages.
        generation: arguments of :func:`~sdrpn_core.runtime.generation.generate`.

    Returns:
        The plain answers; or, if any image has a region, the regions, and no answers.

    Raises:
        ValueError: the proposer has no reader.
        InputError: a prompt with its response exceeds the model's context.
    """
    reader = proposer.reader
    if reader is None:
        raise ValueError("the proposer has no reader: run its prefixes apart from the questions")
    block = prompt_block(backbone, prompts)
    n_columns = columns_needed(block.length, generation["max_new_tokens"])
    cache = full_cache(backbone.n_layers, columns_with_crops(prompts, n_columns))
    proposals: list[list[Proposal]] = []

    def propose() -> None:
        features = tap.take()
        with clock.stage("proposal"):
            readings = reader.read_prefix(features, block.starts)
            prefixes = keep_prefixes(backbone, prompts, block, cache, reader, readings)
            state = Prefill(backbone, questions, prompts, prefixes, block, clock)
            proposals.extend(proposals_of(proposer, state))
        if any(one.plan.crops or one.plan.keep is not None for row in proposals for one in row):
            raise _RegionsFound(ProposedRegions(state, proposals))

    with FeatureTap(backbone.decoder, reader.branch, stop=False) as tap:
        try:
            responses = generate(
                backbone,
                block,
                cache=cache,
                clock=clock,
                first_stage="prefix",
                after_first_pass=propose,
                **generation,
            )
        except _RegionsFound as found:
            return found.regions
    seconds = clock.shares(len(prompts))
    return [
        Answer.from_ids(backbone, prompt, ids, tuple(row), seconds)
        for prompt, ids, row in zip(prompts, responses, proposals, strict=True)
    ]

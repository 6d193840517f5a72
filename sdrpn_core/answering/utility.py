"""What a region is worth: how much more likely a reference response becomes with its crops.

One measure serves the labels of a gate, the choice among candidate regions, and reports. It needs
no annotation of regions: the reference is a given response, or the model's own at a high
resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdrpn_core.answering.crop_insertion import insert_crops, n_reused
from sdrpn_core.answering.prefix import prefix_block
from sdrpn_core.errors import InputError
from sdrpn_core.runtime.buckets import DEFAULT_MAX_PADDING, buckets
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.runtime.kv_cache import join_cache
from sdrpn_core.runtime.logits import block_logits

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.answering.prefix import Prefix
    from sdrpn_core.answering.proposer import Proposal
    from sdrpn_core.backbone.prompt import Prompt

DEFAULT_BATCH_SIZE = 8


@dataclass(frozen=True, eq=False)
class Worth:
    """The reference response's log-likelihoods, in nats, summed over its tokens.

    Attributes:
        plain: without a crop.
        cropped: with the crops of each candidate, in order.
        proposals: the candidates, one proposal per image, without the crops that the backbone
            cannot encode.
        crop_tokens: visual tokens that each candidate adds to the prompt, less those that pruning
            drops.
    """

    plain: float
    cropped: tuple[float, ...]
    proposals: tuple[tuple[Proposal, ...], ...]
    crop_tokens: tuple[int, ...]

    @property
    def utilities(self) -> tuple[float, ...]:
        """Per candidate, with its crops minus without."""
        return tuple(one - self.plain for one in self.cropped)


@dataclass(frozen=True, eq=False)
class _Sequence:
    """A prompt with the reference response, and how much of its prefix is kept."""

    question: int
    prompt: Prompt
    prefix: Prefix
    n_reused: int

    @property
    def lengths(self) -> tuple[int, int]:
        return self.n_reused, len(self.prompt) - self.n_reused


@torch.no_grad()
def worth_of_crops(
    state: Prefill,
    candidates: Sequence[Sequence[Sequence[Proposal]]],
    responses: Sequence[Sequence[int]],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_padding: float = DEFAULT_MAX_PADDING,
) -> list[Worth]:
    """Score the reference responses of questions whose prefixes have run.

    The prefixes are not run again; crops, questions and responses run behind them, candidates of
    all questions side by side.

    Args:
        state: the questions.
        candidates: per question, any number of candidates: each is one proposal per image.
            Candidates without a crop are worth nothing.
        responses: per question the reference's token ids, without the end token.
        batch_size: sequences per pass.
        max_padding: largest share of a pass that may be padding.

    Raises:
        InputError: a response is empty, or a prompt exceeds the model's context.
    """
    backbone = state.backbone
    if any(not ids for ids in responses):
        raise InputError("what a region is worth shows in a response, and one of these is empty")
    sequences: list[_Sequence] = []
    places: list[list[int]] = []
    judged: list[list[tuple[Proposal, ...]]] = []
    added: list[list[int]] = []
    for index, (prompt, prefix, ids) in enumerate(
        zip(state.prompts, state.prefixes, responses, strict=True)
    ):
        # The last token of a response predicts nothing that counts.
        shown = tuple(ids[:-1])
        plain = _Sequence(
            index, prompt.followed_by(shown), prefix, min(len(prefix), len(prompt) - 1)
        )
        places.append([len(sequences)])
        judged.append([])
        added.append([])
        sequences.append(plain)
        rows = candidates[index]
        inserted = insert_crops(
            backbone,
            [state.questions[index]] * len(rows),
            [prompt] * len(rows),
            rows,
        )
        for cropped, proposals in inserted:
            judged[-1].append(tuple(proposals))
            added[-1].append(cropped.n_visual_tokens - prompt.n_visual_tokens)
            if any(proposal.plan.crops for proposal in proposals):
                places[-1].append(len(sequences))
                kept = n_reused(prompt, prefix, proposals)
                sequences.append(_Sequence(index, cropped.followed_by(shown), prefix, kept))
            else:
                places[-1].append(places[-1][0])
    backbone.check_context(max(len(sequence.prompt) for sequence in sequences))
    found: dict[int, float] = {}
    lengths = [sequence.lengths for sequence in sequences]
    holes = not backbone.has_windows
    for batch in buckets(lengths, batch_size, max_padding, holes=holes):
        values = _log_likelihoods(
            state,
            [sequences[place] for place in batch],
            [responses[sequences[place].question] for place in batch],
        )
        found.update(zip(batch, values, strict=True))
    return [
        Worth(found[first], tuple(found[place] for place in others), tuple(kept), tuple(tokens))
        for (first, *others), kept, tokens in zip(places, judged, added, strict=True)
    ]


def _log_likelihoods(
    state: Prefill, sequences: Sequence[_Sequence], responses: Sequence[Sequence[int]]
) -> list[float]:
    backbone = state.backbone
    kept = [sequence.n_reused for sequence in sequences]
    before, cache = None, None
    # A cache without a column would be taken for none.
    if any(kept):
        prefixes = [sequence.prefix for sequence in sequences]
        before = prefix_block(prefixes, kept)
        cache = join_cache([prefix.keys_values for prefix in prefixes], kept)
    rest = prompt_block(backbone, [sequence.prompt for sequence in sequences], starts=kept)
    longest = max(map(len, responses))
    logits = block_logits(backbone, rest, before, cache, keep=longest)
    values = []
    for row, ids in zip(logits, responses, strict=True):
        predicted = row[-len(ids) :].float().log_softmax(dim=-1)
        targets = torch.tensor(list(ids), device=predicted.device)
        values.append(predicted.gather(1, targets[:, None]).double().sum())
    return torch.stack(values).tolist()

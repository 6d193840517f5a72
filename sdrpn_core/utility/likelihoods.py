"""How likely a reference response is with crops and without: the utility of a region.

One measure serves the labels of a gate, the choice among candidate regions, and reports. It needs
no annotation of regions: the reference is a given response, or the model's own at a high
resolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from sdrpn_core.utility.defaults import DEFAULT_BATCH_SIZE

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.answering.prefix import Prefix
    from sdrpn_core.answering.proposer import Proposal
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt

__all__ = ["CropLikelihoods", "crop_likelihoods"]


@dataclass(frozen=True, eq=False)
class CropLikelihoods:
    """Log-likelihoods of one question's reference response, in nats, summed over its tokens.

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
        """Per candidate, the log-likelihood with its crops minus that without."""
        return tuple(one - self.plain for one in self.cropped)


@torch.no_grad()
def crop_likelihoods(
    state: Prefill,
    candidates: Sequence[Sequence[Sequence[Proposal]]],
    responses: Sequence[Sequence[int]],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> list[CropLikelihoods]:
    """Score the reference responses of questions whose prefixes have run.

    The prefixes are not run again; crops, questions and responses run behind them, candidates of
    all questions side by side.

    Args:
        state: the questions.
        candidates: per question, any number of candidates: each is one proposal per image. One
            without a crop changes nothing, so its likelihood is the plain one.
        responses: per question the reference's token ids, without the end token.
        batch_size: sequences per pass.

    Raises:
        InputError: a response is empty, or a prompt exceeds the model's context.
    """
    backbone = state.backbone
    if any(not ids for ids in responses):
        raise InputError("what a region is worth shows in a response, and one of these is empty")
    questions = [
        _sequences(state, index, rows, tuple(ids))
        for index, (rows, ids) in enumerate(zip(candidates, responses, strict=True))
    ]
    sequences = list(
        dict.fromkeys(one for each in questions for one in (each.plain, *each.cropped))
    )
    backbone.check_context(max(len(sequence.prompt) for sequence in sequences))
    values: dict[_Sequence, float] = {}
    for batch in buckets(
        [sequence.lengths for sequence in sequences],
        batch_size,
        DEFAULT_MAX_PADDING,
        holes=not backbone.has_windows,
    ):
        chosen = [sequences[place] for place in batch]
        values.update(zip(chosen, _log_likelihoods(backbone, chosen), strict=True))
    return [question.scored(values) for question in questions]


@dataclass(frozen=True, eq=False)
class _Sequence:
    """A prompt with the reference response, of which ``n_reused`` tokens have run as a prefix."""

    prompt: Prompt
    response: tuple[int, ...]
    prefix: Prefix
    n_reused: int

    @property
    def lengths(self) -> tuple[int, int]:
        return self.n_reused, len(self.prompt) - self.n_reused


@dataclass(frozen=True, eq=False)
class _QuestionSequences:
    """The sequences of one question; that of a candidate without a crop is the plain one."""

    plain: _Sequence
    cropped: tuple[_Sequence, ...]
    proposals: tuple[tuple[Proposal, ...], ...]
    crop_tokens: tuple[int, ...]

    def scored(self, values: Mapping[_Sequence, float]) -> CropLikelihoods:
        return CropLikelihoods(
            values[self.plain],
            tuple(values[sequence] for sequence in self.cropped),
            self.proposals,
            self.crop_tokens,
        )


def _sequences(
    state: Prefill,
    index: int,
    candidates: Sequence[Sequence[Proposal]],
    response: tuple[int, ...],
) -> _QuestionSequences:
    prompt, prefix = state.prompts[index], state.prefixes[index]
    shown = response[:-1]  # the last token predicts nothing that counts

    def sequence(base: Prompt, proposals: Sequence[Proposal]) -> _Sequence:
        kept = n_reused(prompt, prefix, proposals)
        return _Sequence(base.followed_by(shown), response, prefix, kept)

    plain = sequence(prompt, ())
    inserted = insert_crops(
        state.backbone,
        [state.questions[index]] * len(candidates),
        [prompt] * len(candidates),
        candidates,
    )
    return _QuestionSequences(
        plain,
        tuple(
            sequence(cropped, proposals) if any(one.plan.crops for one in proposals) else plain
            for cropped, proposals in inserted
        ),
        tuple(tuple(proposals) for _, proposals in inserted),
        tuple(cropped.n_visual_tokens - prompt.n_visual_tokens for cropped, _ in inserted),
    )


def _log_likelihoods(backbone: Backbone, sequences: Sequence[_Sequence]) -> list[float]:
    kept = [sequence.n_reused for sequence in sequences]
    before, cache = None, None
    # A cache without a column would be taken for none.
    if any(kept):
        prefixes = [sequence.prefix for sequence in sequences]
        before = prefix_block(prefixes, kept)
        cache = join_cache([prefix.keys_values for prefix in prefixes], kept)
    rest = prompt_block(backbone, [sequence.prompt for sequence in sequences], starts=kept)
    longest = max(len(sequence.response) for sequence in sequences)
    logits = block_logits(backbone, rest, before, cache, keep=longest)
    values = []
    for row, sequence in zip(logits, sequences, strict=True):
        ids = torch.tensor(sequence.response, device=row.device)
        predicted = row[-len(ids) :].float().log_softmax(dim=-1)
        values.append(predicted.gather(1, ids[:, None]).double().sum())
    return torch.stack(values).tolist()

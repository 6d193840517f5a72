"""The two-stage answer: look, propose regions, look again, answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.backbone import Question
from sdrpn_core.batching import Block
from sdrpn_core.crop_segments import encode_crops
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.generation import generate, prompt_block
from sdrpn_core.prefill import prefill_prompts
from sdrpn_core.proposers.base import Proposal, Proposer
from sdrpn_core.proposers.rpn import RPNProposer
from sdrpn_core.stage_clock import StageClock

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from sdrpn_core.backbone import Backbone
    from sdrpn_core.crops.policy import CropPolicy
    from sdrpn_core.prefill import Prefill
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.segments import Prompt

#: Response length that fits the short answers of fine-grained question answering.
DEFAULT_MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Answer:
    """A response, and what led to it.

    Attributes:
        text: the response.
        ids: its token ids, without the end token.
        proposals: one per picture: outcome, crops (boxes in source pixels) and RoI map; empty for
            a plain answer.
        n_visual_tokens: visual tokens that the decoder saw, crops included.
        seconds: wall time per stage; of an answer from a batch, an equal share of the batch's.
    """

    text: str
    ids: tuple[int, ...]
    proposals: tuple[Proposal, ...]
    n_visual_tokens: int
    seconds: Mapping[str, float]

    @property
    def outcome(self) -> Outcome | None:
        """``ok`` if any picture was cropped, else the first picture's outcome; ``None`` for a plain
        answer.
        """
        outcomes = [proposal.plan.outcome for proposal in self.proposals]
        if Outcome.OK in outcomes:
            return Outcome.OK
        return outcomes[0] if outcomes else None

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Crop boxes of all pictures, source pixels, half-open."""
        return [crop.box for proposal in self.proposals for crop in proposal.plan.crops]


def answer(
    backbone: Backbone,
    image: str | Path | bytes | Image.Image | Sequence[Any],
    question: str,
    *,
    rpn: RPN | None = None,
    policy: CropPolicy | None = None,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    **options: Any,
) -> Answer:
    """Answer one question about a picture (or a list of pictures).

    Args:
        backbone: the model.
        image: path, bytes or picture, or a list of these.
        question: the question.
        rpn: predicts the region; without one the answer is the plain model's.
        policy: how the RoI map becomes crops; default: the one that the RPN's configuration names.
        max_new_tokens: upper limit of the response length.
        options: further arguments of ``generate()``, e.g. ``streamer``.

    Raises:
        ImageError: a picture cannot be read.
        InputError: empty question, no picture, or a prompt beyond the model's context.
    """
    proposer = RPNProposer(rpn, policy) if rpn is not None else None
    return answer_batch(
        backbone,
        [Question.about(image, question)],
        proposer,
        max_new_tokens=max_new_tokens,
        **options,
    )[0]


@torch.no_grad()
def answer_batch(
    backbone: Backbone,
    questions: Sequence[Question],
    proposer: Proposer | None = None,
    *,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    **options: Any,
) -> list[Answer]:
    """Answer a batch; every answer equals that of its question alone.

    Args:
        backbone: the model.
        questions: what is asked; pictures may differ in number, size and grid.
        proposer: where crops come from; ``None`` for plain answers.
        max_new_tokens: upper limit of the response lengths.
        options: further arguments of ``generate()``.

    Raises:
        InputError: empty question, or a prompt beyond the model's context.
    """
    if not questions:
        return []
    clock = StageClock(backbone.device)
    with clock.stage("vision"):
        prompts = backbone.encode(questions)
    if proposer is None:
        with clock.stage("answer"):
            block = prompt_block(backbone, prompts)
            responses = generate(backbone, block, max_new_tokens=max_new_tokens, **options)
        proposals: list[list[Proposal]] = [[] for _ in prompts]
    else:
        with clock.stage("prefix"):
            state = prefill_prompts(backbone, questions, prompts, proposer.branch)
        with clock.stage("proposal"):
            proposals = proposer.propose(state)
        with clock.stage("crops"):
            prompts, proposals = _insert_crops(backbone, state, proposals)
        with clock.stage("answer"):
            responses = _answer_from_prefix(
                state, prompts, proposals, max_new_tokens=max_new_tokens, **options
            )
    share = {name: seconds / len(prompts) for name, seconds in clock.seconds.items()}
    return [
        Answer(
            backbone.tokenizer.decode(ids, skip_special_tokens=True).strip(),
            ids,
            tuple(row),
            prompt.n_visual_tokens,
            share,
        )
        for ids, row, prompt in zip(responses, proposals, prompts, strict=True)
    ]


def _insert_crops(
    backbone: Backbone, state: Prefill, proposals: list[list[Proposal]]
) -> tuple[list[Prompt], list[list[Proposal]]]:
    """Prompts with their crops' tokens and without pruned ones, and the proposals that are left."""
    jobs = [
        (image, proposal.plan)
        for question, row in zip(state.questions, proposals, strict=True)
        for image, proposal in zip(question.images, row, strict=True)
    ]
    encoded = iter(encode_crops(backbone, jobs))
    prompts, kept = [], []
    for prompt, row in zip(state.prompts, proposals, strict=True):
        results = [next(encoded) for _ in row]
        crops = tuple(
            tuple(part for segment in segments for part in backbone.frame_crop(segment))
            for _, segments in results
        )
        pruned = prompt.pruned(tuple(plan.keep for plan, _ in results))
        prompts.append(pruned.with_crops(crops))
        kept.append([Proposal(plan, old.roi) for old, (plan, _) in zip(row, results, strict=True)])
    return prompts, kept


def _answer_from_prefix(
    state: Prefill,
    prompts: Sequence[Prompt],
    proposals: Sequence[Sequence[Proposal]],
    **options: Any,
) -> list[tuple[int, ...]]:
    """Generate on the cached prefixes, as far as each is still valid.

    What is left of a row's prefix is masked from where it changed on, and those tokens run again.
    """
    prefix = state.prefix
    valid = [_valid_length(*pair) for pair in zip(state.prompts, proposals, strict=True)]
    ends = [start + length for start, length in zip(prefix.starts.tolist(), valid, strict=True)]
    # A cache without a column would be taken for none.
    length = max(*ends, 1)
    state.trim(length)
    mask = prefix.mask[:, :length].clone()
    for row, end in enumerate(ends):
        mask[row, end:] = 0
    reused = Block(prefix.embeds[:, :length], mask, prefix.positions[..., :length])
    rest = prompt_block(state.backbone, prompts, starts=valid)
    return generate(state.backbone, rest, prefix=reused, cache=state.cache, **options)


def _valid_length(prompt: Prompt, proposals: Sequence[Proposal]) -> int:
    """How many tokens of a prompt's cached prefix the second look leaves as they were.

    Those after a crop attend to it: with several pictures, the later ones run again. A pruned
    picture runs again itself, as its tokens attended to those that are gone.
    """
    for (start, stop), proposal in zip(prompt.image_spans, proposals, strict=True):
        if proposal.plan.keep is not None:
            return start
        if proposal.plan.crops:
            return stop
    return prompt.prefix_length

"""The two-stage answer: look, propose regions, look again, answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.answering.passes import BatchRule, Looked, first_pass, second_pass
from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.adapter import Question
from sdrpn_core.crops.policy import Outcome
from sdrpn_core.runtime.buckets import DEFAULT_MAX_PADDING, buckets, check_max_padding
from sdrpn_core.runtime.generate_options import check_generate_options

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.crops.policy import CropPolicy
    from sdrpn_core.rpn.model import RPN

#: Response length that fits the short answers of fine-grained question answering.
DEFAULT_MAX_NEW_TOKENS = 128


@dataclass(frozen=True)
class Answer:
    """A response, and what led to it.

    Attributes:
        text: the response.
        ids: its token ids, without the end token.
        proposals: one per image: outcome, crops (boxes in source pixels) and RoI map; empty for
            a plain answer.
        n_visual_tokens: visual tokens that the decoder saw, crops included.
        seconds: wall time per stage, in order. Plain: ``vision``, ``prefill``, ``decode`` (and
            ``prefix``, where questions share one). With a proposer: ``vision``, ``prefix`` (all
            layers, up to the last image; with a short question all of the prompt), ``question``
            (a longer one, up to the branch layer), ``proposal`` (the RPN and the crop policy),
            ``crop`` (cut and encoded), ``roi_prefill`` (crops and question, all layers),
            ``decode``. Of an answer from a batch, an equal share of each batch that it went
            through; what came from a
            :class:`~sdrpn_core.answering.prefix_store.PrefixStore` took no time.
    """

    text: str
    ids: tuple[int, ...]
    proposals: tuple[Proposal, ...]
    n_visual_tokens: int
    seconds: Mapping[str, float]

    @property
    def outcome(self) -> Outcome | None:
        """``ok`` if any image was cropped, else the first image's outcome; ``None`` for a plain
        answer.
        """
        outcomes = [proposal.plan.outcome for proposal in self.proposals]
        if Outcome.OK in outcomes:
            return Outcome.OK
        return outcomes[0] if outcomes else None

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Crop boxes of all images, source pixels, half-open."""
        return [crop.box for proposal in self.proposals for crop in proposal.plan.crops]


def answer(
    backbone: Backbone,
    image: str | Path | bytes | Image.Image | Sequence[Any],
    question: str,
    *,
    rpn: RPN | None = None,
    policy: CropPolicy | None = None,
    store: PrefixStore | None = None,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    **options: Any,
) -> Answer:
    """Answer one question about an image (or a list of images).

    Args:
        backbone: the model.
        image: path, bytes or image, or a list of these.
        question: the question.
        rpn: predicts the region; without one the answer is the plain model's.
        policy: how the RoI map becomes crops; default: the one that the RPN's configuration names.
        store: keeps what does not depend on the question, for others about the same image.
        max_new_tokens: upper limit of the response length.
        options: further arguments of ``generate()``, e.g. ``streamer``.

    Raises:
        ConfigError: see :func:`answer_batch`.
        ImageError: an image cannot be read.
        InputError: empty question, no image, or a prompt beyond the model's context.
    """
    proposer = RPNProposer(rpn, policy) if rpn is not None else None
    return answer_batch(
        backbone,
        [Question.about(image, question)],
        proposer,
        store=store,
        max_new_tokens=max_new_tokens,
        **options,
    )[0]


@torch.no_grad()
def answer_batch(
    backbone: Backbone,
    questions: Sequence[Question],
    proposer: Proposer | None = None,
    *,
    store: PrefixStore | None = None,
    max_padding: float = DEFAULT_MAX_PADDING,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    **options: Any,
) -> list[Answer]:
    """Answer a batch; every answer equals that of its question alone.

    Questions about the same images share their prefix. Sequences that became too different in
    length, some with crops and some without, are answered in several batches.

    Args:
        backbone: the model.
        questions: what is asked; images may differ in number, size and grid.
        proposer: where crops come from; ``None`` for plain answers.
        store: prefixes of earlier calls, to which those of this one are added.
        max_padding: largest share of a batch that may be padding, 0 (none) to below 1.
        max_new_tokens: upper limit of the response lengths.
        options: further arguments of ``generate()``; not those that make several responses of one
            or need the prompt's ids.

    Raises:
        ConfigError: ``max_padding`` is no share, ``store`` belongs to another backbone, or an
            option of ``generate()`` that cannot be passed on.
        InputError: empty question, or a prompt beyond the model's context.
    """
    check_max_padding(max_padding)
    check_generate_options(options)
    if not questions:
        return []
    generation = {"max_new_tokens": max_new_tokens, **options}
    rule = BatchRule.of(backbone, max_padding, generation)
    looked = first_pass(
        backbone,
        questions,
        proposer,
        store=store,
        max_padding=rule.max_padding,
        generation=generation,
    )
    left = [index for index, one in enumerate(looked) if one.response is None]
    lengths = [looked[index].lengths for index in left]
    for batch in buckets(lengths, len(left), rule.max_padding, holes=rule.holes):
        rows = second_pass(backbone, [looked[left[place]] for place in batch], **generation)
        for place, row in zip(batch, rows, strict=True):
            looked[left[place]] = row
    return [finished(backbone, one) for one in looked]


def finished(backbone: Backbone, looked: Looked) -> Answer:
    """The answer to a question that has a response.

    Raises:
        ValueError: it has none yet.
    """
    ids = looked.response
    if ids is None:
        raise ValueError("the second pass is still to come")
    return Answer(
        backbone.tokenizer.decode(ids, skip_special_tokens=True).strip(),
        ids,
        looked.proposals,
        looked.prompt.n_visual_tokens,
        looked.seconds,
    )

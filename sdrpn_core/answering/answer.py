"""Answer one question, or a batch: plainly, or in two stages with proposed regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.answering.defaults import DEFAULT_MAX_NEW_TOKENS
from sdrpn_core.answering.passes import BatchRule, first_pass, second_pass
from sdrpn_core.answering.results import Answer, PendingAnswer
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.adapter import Question
from sdrpn_core.runtime.buckets import DEFAULT_MAX_PADDING, buckets, check_max_padding
from sdrpn_core.runtime.generation import check_generate_options

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.answering.proposer import Proposer
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.crops.policy import CropPolicy
    from sdrpn_core.rpn.model import RPN


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
    answers: dict[int, Answer] = {}
    pending: dict[int, PendingAnswer] = {}
    for index, one in enumerate(
        first_pass(
            backbone,
            questions,
            proposer,
            store=store,
            max_padding=rule.max_padding,
            generation=generation,
        )
    ):
        if isinstance(one, Answer):
            answers[index] = one
        else:
            pending[index] = one
    indices = list(pending)
    lengths = [one.lengths for one in pending.values()]
    for batch in buckets(lengths, len(pending), rule.max_padding, holes=rule.holes):
        chosen = [indices[place] for place in batch]
        found = second_pass(backbone, [pending.pop(index) for index in chosen], **generation)
        answers.update(zip(chosen, found, strict=True))
    return [answers[index] for index in range(len(questions))]

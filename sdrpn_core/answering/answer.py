"""Answer one question, or a batch: plainly, or in two stages with proposed regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from sdrpn_core.answering.arguments import check_arguments
from sdrpn_core.answering.cascade import start_answers
from sdrpn_core.answering.defaults import DEFAULT_MAX_NEW_TOKENS
from sdrpn_core.answering.passes import BatchRule, second_pass
from sdrpn_core.answering.results import Answer, PendingAnswer
from sdrpn_core.answering.rpn_proposer import RPNProposer
from sdrpn_core.backbone.given import check_backbone
from sdrpn_core.backbone.question import Question, checked_questions
from sdrpn_core.errors import ConfigError
from sdrpn_core.runtime.buckets import DEFAULT_MAX_PADDING
from sdrpn_core.runtime.generate_options import given_options

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
    policy: str | CropPolicy | None = None,
    store: PrefixStore | None = None,
    first_look_tokens: int | None = None,
    confidence_threshold: float | None = None,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    **options: Any,
) -> Answer:
    """Answer one question about an image, or about several.

    Args:
        backbone: the model.
        image: path, bytes or image, or a list of these.
        question: the question.
        rpn: predicts the region; ``None`` for the plain answer.
        policy: turns the RoI map into crops, or the name of one that does; default: the policy in
            the RPN's configuration.
        store: keeps what does not depend on the question, for other questions about the image.
        first_look_tokens: see :func:`answer_batch`.
        confidence_threshold: see :func:`answer_batch`.
        max_new_tokens: upper limit of the response length.
        options: further arguments of ``generate()``, e.g. ``streamer``.

    Raises:
        ConfigError: not a backbone, an RPN or a policy, a policy without an RPN, or see
            :func:`answer_batch`.
        UnknownNameError: no policy of that name.
        ImageError: an image cannot be read.
        InputError: an empty question, no image, or a prompt that exceeds the model's context.
    """
    if "proposer" in options:
        raise ConfigError("answer takes an rpn and a policy; give a proposer to answer_batch")
    check_backbone(backbone)
    if rpn is None and policy is not None:
        raise ConfigError("a policy crops from the maps of an RPN: give rpn, too")
    proposer = RPNProposer(rpn, policy) if rpn is not None else None
    return answer_batch(
        backbone,
        [Question.about(image, question)],
        proposer,
        store=store,
        first_look_tokens=first_look_tokens,
        confidence_threshold=confidence_threshold,
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
    first_look_tokens: int | None = None,
    confidence_threshold: float | None = None,
    max_padding: float = DEFAULT_MAX_PADDING,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    **options: Any,
) -> list[Answer]:
    """Answer a batch of questions; every answer is the same as for its question alone.

    Questions about the same images share their prefix. Once some have crops and some have none,
    sequences that differ too much in length are answered in separate batches.

    Args:
        backbone: the model.
        questions: the questions; images may differ in number, size and grid.
        proposer: where crops come from; ``None`` for plain answers.
        store: prefixes of earlier calls; those of this one are added.
        first_look_tokens: largest number of visual tokens that each whole image is encoded with, in
            families of dynamic resolution; crops are still cut from the image as it is. Default:
            the questions' own, which is that of the processor unless they say otherwise.
        confidence_threshold: answer plainly first, and look closer only where a token of that
            answer is less likely than this (above 0, at most 1). Where all are as likely, the
            outcome is ``not_needed`` and nothing is proposed. Of the others, the surer one of the
            two answers stays; if that is the plain one, the outcome is ``less_sure``. (After a
            coarse first look, that with crops stays.) Default: always look, and answer once.
        max_padding: largest share of a batch that may be padding; at least 0, less than 1.
        max_new_tokens: upper limit of the response lengths.
        options: further arguments of ``generate()``, except those for several responses to one
            prompt and those that need the prompt's ids.

    Raises:
        ConfigError: an argument is of another kind or out of range, ``store`` belongs to another
            backbone, an option of ``generate()`` is unknown or cannot be passed on, the family's
            resolution is fixed and a first look or a crop budget is asked for, a confidence
            threshold is given without a proposer or with a ``streamer``, or what is proposed cannot
            be cropped.
        InputError: no list of questions, an entry that is no :class:`Question`, an empty question,
            or a prompt that exceeds the model's context.
    """
    options = given_options(options)
    questions = list(checked_questions(questions))
    check_arguments(
        backbone,
        proposer,
        store=store,
        first_look_tokens=first_look_tokens,
        confidence_threshold=confidence_threshold,
        max_padding=max_padding,
        max_new_tokens=max_new_tokens,
        batch_size=len(questions),
        options=options,
    )
    questions = [question.with_first_look(first_look_tokens) for question in questions]
    if not questions:
        return []
    generation = {"max_new_tokens": max_new_tokens, **options}
    rule = BatchRule.of(backbone, max_padding, generation)
    answers: dict[int, Answer] = {}
    pending: dict[int, PendingAnswer] = {}
    for index, one in enumerate(
        start_answers(
            backbone,
            questions,
            proposer,
            confidence_threshold=confidence_threshold,
            store=store,
            rule=rule,
            generation=generation,
        )
    ):
        if isinstance(one, Answer):
            answers[index] = one
        else:
            pending[index] = one
    indices = list(pending)
    for batch in rule.batches(list(pending.values())):
        chosen = [indices[place] for place in batch]
        found = second_pass(backbone, [pending.pop(index) for index in chosen], **generation)
        answers.update(zip(chosen, found, strict=True))
    return [answers[index] for index in range(len(questions))]

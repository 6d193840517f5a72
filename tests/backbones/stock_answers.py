"""What the stock model answers on ids and pixels, crops as further images of the prompt."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch

from sdrpn_core.answering.answer import answer_batch
from sdrpn_core.answering.prefix_store import PrefixStore
from sdrpn_core.answering.proposer import Proposer
from sdrpn_core.answering.stream import answer_stream
from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import Question
from sdrpn_core.runtime.generate_options import end_token_ids
from sdrpn_core.testing.images import block_image
from sdrpn_core.testing.stock import with_crops
from sdrpn_core.testing.subject import ContractSubject

N_NEW_TOKENS = 4
_TEXTS = (
    "what color is the square ?",
    "how many ?",
    "which letter is on the left of the small circle ?",
    "is it red or blue ?",
)
_SIZES = ((240, 160), (160, 240), (150, 150), (320, 80))
_BATCH = 6


def random_questions(n: int, seed: int = 0) -> list[Question]:
    """Of different length, about one image or two of different shapes; the last about none."""
    draw = random.Random(seed)
    questions = [
        Question(
            draw.choice(_TEXTS),
            tuple(
                block_image(draw.randrange(8), draw.choice(_SIZES))
                for _ in range(draw.choice((1, 1, 1, 2)))
            ),
        )
        for _ in range(n - 1)
    ]
    return [*questions, Question(_TEXTS[1])]


@torch.no_grad()
def stock_answer(
    backbone: Backbone, question: Question, proposer: Proposer | None, **options: Any
) -> tuple[int, ...]:
    """Stock ``generate()`` on ids and pixels."""
    prompt, images = with_crops(backbone, question, proposer)
    ids = torch.tensor([backbone.token_ids(prompt)])
    sequence = backbone.model.generate(
        **ContractSubject.stock_inputs(backbone, prompt, ids, images),
        attention_mask=torch.ones_like(ids),
        max_new_tokens=N_NEW_TOKENS,
        do_sample=False,
        **{"suppress_tokens": sorted(end_token_ids(backbone)), **options},
    )
    return tuple(sequence[0, ids.shape[1] :].tolist())


def our_answers(
    backbone: Backbone, questions: list[Question], proposer: Proposer | None, **options: Any
) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """The same questions in batches, with a prefix store, cold and warm, and as a stream."""
    options = {
        "max_new_tokens": N_NEW_TOKENS,
        "suppress_tokens": sorted(end_token_ids(backbone)),
        **options,
    }
    store = PrefixStore()
    for way, kept in (("batches", None), ("cold store", store), ("warm store", store)):
        answers = [
            answer
            for start in range(0, len(questions), _BATCH)
            for answer in answer_batch(
                backbone, questions[start : start + _BATCH], proposer, store=kept, **options
            )
        ]
        yield way, [answer.ids for answer in answers]
    stream = answer_stream(backbone, questions, proposer, batch_size=_BATCH, **options)
    yield "stream", [answer.ids for _, answer in stream]

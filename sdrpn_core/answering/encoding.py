"""Questions whose images are encoded, before anything runs: what there is to run, for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdrpn_core.answering.prefix_store import PrefixKey, PrefixStore, prefix_keys
from sdrpn_core.backbone.adapter import Question
from sdrpn_core.errors import InputError
from sdrpn_core.runtime.buckets import padding

if TYPE_CHECKING:
    from sdrpn_core.answering.prefix import Prefix, PrefixReader
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.runtime.clock import StageClock

#: Length of questions, relative to their prefixes, up to which one pass over both is worth it.
#: Longer ones cost more in the layers behind the branch than a pass of their own does.
_SHORT = 1 / 8


@dataclass(frozen=True, eq=False)
class EncodedQuestions:
    """Questions whose images are encoded, and of which nothing has run.

    Attributes:
        backbone: the model.
        questions: what was asked, with the images.
        cut: per question its prompt's ids, up to the last image and behind it.
        keys: per question what its prefix is made of; ``None``: nobody else's is alike.
        owners: per question whose prefix it shares; most often its own.
        kept: by owner, the prefixes that a store had.
        prompts: by owner, the other prefixes.
    """

    backbone: Backbone
    questions: Sequence[Question]
    cut: Sequence[tuple[list[int], tuple[int, ...]]]
    keys: Sequence[PrefixKey | None]
    owners: Sequence[int]
    kept: Mapping[int, Prefix]
    prompts: Mapping[int, Prompt]

    @property
    def is_unshared(self) -> bool:
        """Whether each question has a prefix of its own, which no store had."""
        return len(self.prompts) == len(self.questions)

    def whole_prompts(self) -> list[Prompt]:
        """The prompts of questions that share nothing."""
        return [self.prompts[index].followed_by(rest) for index, (_, rest) in enumerate(self.cut)]

    def is_best_run_whole(self, max_padding: float) -> bool:
        """Whether the questions should run along with their prefixes, in one batch.

        They should where no prefix is shared, they are short beside these, and the lengths are
        alike: one long pass takes less time than a long and a short one.

        Args:
            max_padding: largest share of the batch that may be padding.
        """
        if not self.is_unshared:
            return False
        lengths = [len(self.prompts[index]) for index in range(len(self.cut))]
        behind = [len(rest) for _, rest in self.cut]
        if sum(behind) > _SHORT * sum(lengths):
            return False
        whole = [(n + more,) for n, more in zip(lengths, behind, strict=True)]
        return padding(whole) <= max_padding


@torch.no_grad()
def encode_questions(
    backbone: Backbone,
    questions: Sequence[Question],
    reader: PrefixReader | None,
    *,
    store: PrefixStore | None,
    clock: StageClock,
) -> EncodedQuestions:
    """Tokenize questions and encode their images, each distinct prefix once.

    Args:
        backbone: the model.
        questions: a batch, one or more.
        reader: who has to have read what a store holds.
        store: prefixes of earlier questions.
        clock: books the time.

    Raises:
        ConfigError: the backbone was loaded in part, or the store is another backbone's.
        InputError: an empty question, or one that comes with a response.
    """
    backbone.check_whole("answering")
    if store is not None:
        store.bind(backbone)
    cut = [_cut(backbone, question) for question in questions]
    keys = prefix_keys(
        [ids for ids, _ in cut], [q.images for q in questions], stored=store is not None
    )
    first: dict[PrefixKey | int, int] = {}
    owners = [
        first.setdefault(index if key is None else key, index) for index, key in enumerate(keys)
    ]
    found = {owner: _find(store, keys[owner], reader) for owner in first.values()}
    missing = [owner for owner, prefix in found.items() if prefix is None]
    prompts: list[Prompt] = []
    if missing:
        with clock.stage("vision"):
            prompts = backbone.encode_ids(
                [cut[owner][0] for owner in missing],
                [Question("", questions[owner].images) for owner in missing],
            )
    return EncodedQuestions(
        backbone,
        questions,
        cut,
        keys,
        owners,
        {owner: prefix for owner, prefix in found.items() if prefix is not None},
        dict(zip(missing, prompts, strict=True)),
    )


def _cut(backbone: Backbone, question: Question) -> tuple[list[int], tuple[int, ...]]:
    """The prompt's ids up to the last image (without one: the first), and those that follow."""
    if question.response_ids:
        raise InputError("a question that comes with a response cannot be answered")
    ids = backbone.tokenize(
        question.text, len(question.images), special_tokens=question.special_tokens
    )
    places = [place for place, token in enumerate(ids) if token == backbone.image_token_id]
    stop = places[-1] + 1 if places else 1
    return ids[:stop], tuple(ids[stop:])


def _find(
    store: PrefixStore | None, key: PrefixKey | None, reader: PrefixReader | None
) -> Prefix | None:
    return None if store is None or key is None else store.get(key, reader)

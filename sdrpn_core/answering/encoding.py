"""Encoded questions: images are through the vision encoder, the decoder has not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdrpn_core.answering.prefix_store import PrefixKey, PrefixStore, prefix_keys
from sdrpn_core.errors import InputError
from sdrpn_core.runtime.buckets import padding

if TYPE_CHECKING:
    from sdrpn_core.answering.prefix import Prefix, PrefixReader
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt
    from sdrpn_core.backbone.question import Question
    from sdrpn_core.runtime.clock import StageClock

#: Length of questions relative to their prefixes up to which one pass over both is faster. Longer
#: ones cost more in the layers above the branch than a separate pass does.
_MAX_QUESTION_SHARE = 1 / 8


@dataclass(frozen=True, eq=False)
class EncodedQuestions:
    """Questions whose images are encoded, before the decoder runs.

    A prefix belongs to the first question that has it, its owner; others share it.

    Attributes:
        backbone: the model.
        questions: the questions, with their images.
        split_ids: per question the token ids of its prompt, up to the last image and after it.
        keys: per question the key of its prefix; ``None`` if it can equal no other.
        owners: per question the index of its prefix's owner.
        stored: by owner, the prefixes that were found in a store.
        prefixes: by owner, the other prefixes, which still have to run.
    """

    backbone: Backbone
    questions: Sequence[Question]
    split_ids: Sequence[tuple[list[int], tuple[int, ...]]]
    keys: Sequence[PrefixKey | None]
    owners: Sequence[int]
    stored: Mapping[int, Prefix]
    prefixes: Mapping[int, Prompt]

    @property
    def is_unshared(self) -> bool:
        """Whether no two questions share a prefix, and none was found in a store."""
        return len(self.prefixes) == len(self.questions)

    def whole_prompts(self) -> list[Prompt]:
        """The whole prompts of questions that share no prefix."""
        return [
            self.prefixes[index].followed_by(rest) for index, (_, rest) in enumerate(self.split_ids)
        ]

    def runs_in_one_pass(self, max_padding: float) -> bool:
        """Whether the questions should run together with their prefixes, in one batch.

        They should if no prefix is shared, if the questions are short relative to the prefixes, and
        if the lengths are similar: then one long pass takes less time than a long and a short one.

        Args:
            max_padding: largest share of the batch that may be padding.
        """
        if not self.is_unshared:
            return False
        lengths = [len(self.prefixes[index]) for index in range(len(self.split_ids))]
        behind = [len(rest) for _, rest in self.split_ids]
        if sum(behind) > _MAX_QUESTION_SHARE * sum(lengths):
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
        reader: must have read a stored prefix for it to be used; ``None``: any will do.
        store: prefixes of earlier questions.
        clock: times the stage.

    Raises:
        ConfigError: the backbone is only partially loaded, or the store belongs to another one.
        InputError: an empty question, or a question that comes with a response.
    """
    backbone.check_whole("answering")
    if store is not None:
        store.bind(backbone)
    parts = [split_ids(backbone, question) for question in questions]
    keys = prefix_keys([ids for ids, _ in parts], questions, stored=store is not None)
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
                [parts[owner][0] for owner in missing],
                [questions[owner] for owner in missing],
            )
    return EncodedQuestions(
        backbone,
        questions,
        parts,
        keys,
        owners,
        {owner: prefix for owner, prefix in found.items() if prefix is not None},
        dict(zip(missing, prompts, strict=True)),
    )


def split_ids(backbone: Backbone, question: Question) -> tuple[list[int], tuple[int, ...]]:
    """The prompt's ids up to the last image (the first id if there is none), and the rest.

    Raises:
        InputError: the question is empty, or comes with a response.
    """
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

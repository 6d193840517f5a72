"""Any number of questions, answered in batches that are put together as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from sdrpn_core.answering.defaults import DEFAULT_BATCH_SIZE, DEFAULT_MAX_NEW_TOKENS
from sdrpn_core.answering.passes import BatchRule, first_pass, second_pass
from sdrpn_core.answering.results import Answer, PendingAnswer
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_core.runtime.buckets import DEFAULT_MAX_PADDING, check_max_padding, nearest
from sdrpn_core.runtime.generation import check_generate_options

if TYPE_CHECKING:
    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.answering.proposer import Proposer
    from sdrpn_core.backbone.adapter import Backbone, Question


#: Batches' worth of questions that may wait, cropped, for others of their length. They hold their
#: prefixes' keys and values, so this is what bounds the memory.
_MAX_WAITING = 2

OnError = Callable[[int, InputError], object]
"""Called with the number of a question that cannot be answered, from 0, and the reason."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A pending answer and the number of its question."""

    index: int
    pending: PendingAnswer


def answer_stream(
    backbone: Backbone,
    questions: Iterable[Question],
    proposer: Proposer | None = None,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    store: PrefixStore | None = None,
    max_padding: float = DEFAULT_MAX_PADDING,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    on_error: OnError | None = None,
    **options: Any,
) -> Iterator[tuple[int, Answer]]:
    """Answer questions one batch at a time; every answer equals that of its question alone.

    The questions of a batch take the first pass together. For the second, each waits until enough
    others are as long as it has become: some have crops, some have none, some are pruned. So a
    batch is seldom padded, and at most three batches' worth of keys and values are held (and those
    of the store).

    Args:
        backbone: the model.
        questions: any number; read as they are needed.
        proposer: where crops come from; ``None`` for plain answers. It sees the questions in
            batches.
        batch_size: most questions that go through the model together.
        store: prefixes that are kept for other questions about the same images, in other batches
            or other calls; without one, only those of one batch share theirs.
        max_padding: largest share of a batch that may be padding, 0 (none) to below 1.
        max_new_tokens: upper limit of the response lengths.
        on_error: told of questions that cannot be answered, which are then left out; default: the
            first one ends the stream.
        options: further arguments of ``generate()``.

    Yields:
        The number of a question, from 0, and its answer; in the order of the questions.

    Raises:
        ConfigError: a batch size below 1, ``max_padding`` is no share, ``store`` belongs to
            another backbone, or an option of ``generate()`` that cannot be passed on.
        InputError: empty question, or a prompt beyond the model's context; says which question.
    """
    if batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1, not {batch_size}")
    check_max_padding(max_padding)
    check_generate_options(options)
    generation = {"max_new_tokens": max_new_tokens, **options}
    rule = BatchRule.of(backbone, max_padding, generation)
    stream = _Stream(backbone, proposer, batch_size, store, rule, generation)
    return stream.run(questions, on_error or _raise)


def _raise(index: int, error: InputError) -> None:
    raise type(error)(f"question {index}: {error}") from error


class _Stream:
    """What is on its way. Answers leave in order: done ones wait for those before them."""

    def __init__(
        self,
        backbone: Backbone,
        proposer: Proposer | None,
        batch_size: int,
        store: PrefixStore | None,
        rule: BatchRule,
        generation: dict[str, Any],
    ) -> None:
        self.backbone = backbone
        self.proposer = proposer
        self.batch_size = batch_size
        self.store = store
        self.rule = rule
        self.generation = generation
        self.waiting: list[_Waiting] = []
        self.done: dict[int, Answer | None] = {}
        self.next_index = 0

    def run(self, questions: Iterable[Question], on_error: OnError) -> Iterator[tuple[int, Answer]]:
        """Answer all."""
        source = enumerate(questions)
        while batch := list(islice(source, self.batch_size)):
            self._first_pass(batch, on_error)
            while ready := self._next_batch(last=False):
                self._second_pass(ready)
                yield from self._leave()
            yield from self._leave()  # what could not be answered holds nobody up
        while ready := self._next_batch(last=True):
            self._second_pass(ready)
            yield from self._leave()

    def _first_pass(self, batch: list[tuple[int, Question]], on_error: OnError) -> None:
        """Take a batch through the first pass; one by one, if one of its questions fails."""
        try:
            results = first_pass(
                self.backbone,
                [question for _, question in batch],
                self.proposer,
                store=self.store,
                max_padding=self.rule.max_padding,
                generation=self.generation,
            )
            for one in results:
                if isinstance(one, PendingAnswer):
                    n_tokens = len(one.prompt) + self.generation["max_new_tokens"]
                    self.backbone.check_context(n_tokens)
        except InputError as error:
            if len(batch) > 1:
                for single in batch:
                    self._first_pass([single], on_error)
                return
            ((index, _),) = batch
            on_error(index, error)
            self.done[index] = None
            return
        for (index, _), one in zip(batch, results, strict=True):
            if isinstance(one, PendingAnswer):
                self.waiting.append(_Waiting(index, one))
            else:
                self.done[index] = one

    def _next_batch(self, *, last: bool) -> list[_Waiting]:
        """A full batch, or the oldest one's if too many wait (or no more will come); else none."""
        crowded = len(self.waiting) > (_MAX_WAITING - 1) * self.batch_size
        lengths = [one.pending.lengths for one in self.waiting]
        oldest: list[int] = []
        for first in range(len(lengths)):
            places = nearest(
                lengths,
                self.batch_size,
                self.rule.max_padding,
                first=first,
                holes=self.rule.holes,
            )
            oldest = oldest or places
            if len(places) == self.batch_size:
                return self._take(places)
        return self._take(oldest) if crowded or last else []

    def _take(self, places: list[int]) -> list[_Waiting]:
        taken = [self.waiting[place] for place in places]
        self.waiting = [one for one in self.waiting if one not in taken]
        return taken

    def _second_pass(self, batch: list[_Waiting]) -> None:
        answers = second_pass(self.backbone, [one.pending for one in batch], **self.generation)
        for one, answer in zip(batch, answers, strict=True):
            self.done[one.index] = answer

    def _leave(self) -> Iterator[tuple[int, Answer]]:
        while self.next_index in self.done:
            found = self.done.pop(self.next_index)
            if found is not None:
                yield self.next_index, found
            self.next_index += 1

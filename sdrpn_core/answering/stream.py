"""Answers to a stream of questions, batched as the questions come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from sdrpn_core.answering.arguments import check_arguments
from sdrpn_core.answering.cascade import start_answers
from sdrpn_core.answering.defaults import DEFAULT_BATCH_SIZE, DEFAULT_MAX_NEW_TOKENS
from sdrpn_core.answering.passes import BatchRule, second_pass
from sdrpn_core.answering.results import Answer, PendingAnswer
from sdrpn_core.backbone.preprocessing import Preprocessor
from sdrpn_core.backbone.question import checked_questions
from sdrpn_core.errors import InputError
from sdrpn_core.runtime.buckets import DEFAULT_MAX_PADDING, nearest
from sdrpn_core.runtime.generate_options import given_options
from sdrpn_core.util.isolate_failures import isolate_failures
from sdrpn_core.util.prefetch import prefetched
from sdrpn_core.util.whole_numbers import check_count

if TYPE_CHECKING:
    from sdrpn_core.answering.prefix_store import PrefixStore
    from sdrpn_core.answering.proposer import Proposer
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.question import Question


#: How many batches' worth of questions are between the two passes at most, those of the next first
#: pass included. Each holds the keys and values of its prefix, so this bounds the memory.
_MAX_WAITING = 2

OnError = Callable[[int, InputError], object]
"""Called with the index of a question that cannot be answered, from 0, and the reason."""


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
    first_look_tokens: int | None = None,
    confidence_threshold: float | None = None,
    max_padding: float = DEFAULT_MAX_PADDING,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    on_error: OnError | None = None,
    **options: Any,
) -> Iterator[tuple[int, Answer]]:
    """Answer questions batch by batch; every answer is the same as for its question alone.

    The questions of a batch take the first pass together. After it, some have crops, some have
    none, some are pruned: each waits for the second pass until there are enough others of similar
    length. So batches have little padding, and the keys and values of at most three batches (and of
    the store) are held in memory. While a batch is answered, the questions of the next are read and
    their images prepared, in a thread of its own.

    Args:
        backbone: the model.
        questions: any number; read a batch ahead of need, by another thread than the caller's.
        proposer: where crops come from; ``None`` for plain answers. It gets the questions in
            batches.
        batch_size: largest number of questions that go through the model together.
        store: keeps prefixes for questions about the same images in other batches and other
            calls; without one, only questions of the same batch share theirs.
        first_look_tokens: see :func:`~sdrpn_core.answering.answer.answer_batch`.
        confidence_threshold: see there.
        max_padding: largest share of a batch that may be padding; at least 0, less than 1.
        max_new_tokens: upper limit of the response lengths.
        on_error: called for questions that cannot be answered, which are then skipped; default:
            the first one ends the stream.
        options: further arguments of ``generate()``.

    Yields:
        The index of a question, from 0, and its answer, in the order of the questions.

    Raises:
        ConfigError: the batch size is below 1, or see
            :func:`~sdrpn_core.answering.answer.answer_batch`.
        InputError: an empty question, or a prompt that exceeds the model's context, unless
            ``on_error`` is given; an entry that is no :class:`Question`. Says which.
    """
    check_count(batch_size, "the batch size")
    options = given_options(options)
    check_arguments(
        backbone,
        proposer,
        store=store,
        first_look_tokens=first_look_tokens,
        confidence_threshold=confidence_threshold,
        max_padding=max_padding,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        options=options,
    )
    generation = {"max_new_tokens": max_new_tokens, **options}
    rule = BatchRule.of(backbone, max_padding, generation)
    start = partial(
        start_answers,
        backbone,
        proposer=proposer,
        confidence_threshold=confidence_threshold,
        store=store,
        rule=rule,
        generation=generation,
    )
    stream = _Stream(backbone, start, batch_size, rule, generation, is_stored=store is not None)
    looking = (
        question.with_first_look(first_look_tokens) for question in checked_questions(questions)
    )
    return stream.run(looking, on_error or _raise)


def _raise(index: int, error: InputError) -> None:
    raise type(error)(f"question {index}: {error}") from error


class _Stream:
    """The questions in flight. Answers leave in order: each waits for those before it."""

    def __init__(
        self,
        backbone: Backbone,
        start: Callable[[Sequence[Question]], list[PendingAnswer | Answer]],
        batch_size: int,
        rule: BatchRule,
        generation: dict[str, Any],
        *,
        is_stored: bool,
    ) -> None:
        self.backbone = backbone
        self.start = start
        self.batch_size = batch_size
        self.is_stored = is_stored
        self.rule = rule
        self.generation = generation
        self.waiting: list[_Waiting] = []
        self.done: dict[int, Answer | None] = {}
        self.next_index = 0

    def run(self, questions: Iterable[Question], on_error: OnError) -> Iterator[tuple[int, Answer]]:
        """Answer all questions."""
        with closing(prefetched(self._prepared(questions), self.batch_size)) as source:
            while batch := list(islice(source, self.batch_size)):
                self._first_pass(batch, on_error)
                while ready := self._next_batch(last=False):
                    self._second_pass(ready)
                    yield from self._yield_in_order()
                yield from self._yield_in_order()  # skipped questions hold up no others
        while ready := self._next_batch(last=True):
            self._second_pass(ready)
            yield from self._yield_in_order()

    def _prepared(self, questions: Iterable[Question]) -> Iterator[tuple[int, Question]]:
        """The questions, their images ready for the encoder."""
        preprocessor = Preprocessor(self.backbone)
        for index, question in enumerate(questions):
            # Of images in a store, nothing is encoded.
            yield index, question if self.is_stored else preprocessor.prepared(question)

    def _first_pass(self, batch: list[tuple[int, Question]], on_error: OnError) -> None:
        """Take a batch through the first pass; a question that fails leaves the others alone."""
        for part, results in isolate_failures(batch, self._start, (InputError,)):
            if isinstance(results, InputError):
                ((index, _),) = part
                on_error(index, results)
                self.done[index] = None
                continue
            for (index, _), one in zip(part, results, strict=True):
                if isinstance(one, PendingAnswer):
                    self.waiting.append(_Waiting(index, one))
                else:
                    self.done[index] = one

    def _start(self, batch: Sequence[tuple[int, Question]]) -> list[PendingAnswer | Answer]:
        results = self.start([question for _, question in batch])
        for one in results:
            if isinstance(one, PendingAnswer):
                n_tokens = len(one.prompt) + self.generation["max_new_tokens"]
                self.backbone.check_context(n_tokens)
        return results

    def _next_batch(self, *, last: bool) -> list[_Waiting]:
        """A full batch, or any if too many questions wait or no more will come; else none."""
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

    def _yield_in_order(self) -> Iterator[tuple[int, Answer]]:
        while self.next_index in self.done:
            found = self.done.pop(self.next_index)
            if found is not None:
                yield self.next_index, found
            self.next_index += 1

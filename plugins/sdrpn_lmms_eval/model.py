"""The classes that lmms-eval runs: one per form of its requests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from sdrpn_core import Question
from sdrpn_core.distributed.processes import processes, progress_bar
from sdrpn_core.errors import ConfigError, InputError
from sdrpn_lmms_eval.generation import Generation
from sdrpn_lmms_eval.questions import chat_question, simple_question
from sdrpn_lmms_eval.session import ModelArguments, Session


@dataclass(frozen=True)
class _Document:
    """Where a request comes from."""

    id: int
    task: str
    split: str


class SdrpnSimple(lmms):
    """Two-stage answers for requests that hold a text and its images.

    Args:
        batch_size: largest number of questions that go through the model together.
        max_batch_size: must be left out: batches have no automatic size.
        arguments: see :class:`~sdrpn_lmms_eval.session.ModelArguments`.

    Raises:
        SdrpnError: an argument is unknown or wrong, or the model cannot be loaded.
    """

    is_simple = True

    def __init__(
        self,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if max_batch_size is not None:
            raise ConfigError("--max_batch_size does not apply: give a number as --batch_size")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ConfigError(f"--batch_size must be a number from 1 up, not {batch_size!r}")
        self.batch_size = int(batch_size)
        chosen = dict(arguments)
        state = processes(chosen.get("device"))
        if state.num_processes > 1 and not chosen.keys() & {"device", "device_map"}:
            chosen["device"] = str(state.device)
        self.accelerator = Accelerator(cpu=state.device.type == "cpu")
        self._rank = state.process_index
        self._world_size = state.num_processes
        self.session = Session.load(ModelArguments.parse(chosen))

    @property
    def device(self) -> torch.device:
        """Where lmms-eval puts what it gathers from all processes."""
        return self.session.backbone.device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer all requests, in batches of equal generation settings.

        Raises:
            InputError: a request cannot be served; names its task and document.
            ConfigError: generation settings that cannot be served.
        """
        results: dict[int, GenerationResult] = {}
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            key = json.dumps(self._settings(request), sort_keys=True, default=str)
            groups.setdefault(key, []).append(index)
        bar = progress_bar(self.rank == 0, total=len(requests), desc="sdrpn", unit="question")
        with bar:
            for indices in groups.values():
                members = [requests[index] for index in indices]
                for index, result in zip(indices, self._answers(members), strict=True):
                    results[index] = result
                    bar.update()
        return [results[index] for index in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse: sdrpn generates answers.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("sdrpn generates answers: tasks that compare likelihoods are not served")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: a question has one answer.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("sdrpn answers single questions: tasks of several rounds are not served")

    def _answers(self, requests: Sequence[Instance]) -> Iterator[GenerationResult]:
        """Answers to requests of equal settings, in order."""
        generation = Generation.parse(self._settings(requests[0]))

        def refuse(index: int, error: InputError) -> None:
            place = self._document(requests[index])
            raise InputError(f"task {place.task!r}, document {place.id}: {error}") from error

        def questions() -> Iterator[Question]:
            for index, request in enumerate(requests):
                try:
                    yield self._question(request)
                except InputError as error:
                    refuse(index, error)

        for _, found in self.session.answer_stream(
            questions(),
            batch_size=self.batch_size,
            max_new_tokens=generation.max_new_tokens,
            on_error=refuse,
            **generation.options,
        ):
            counts = TokenCounts(input_tokens=found.n_prompt_tokens, output_tokens=len(found.ids))
            yield GenerationResult(generation.cut(found.text), counts)

    def _document_data(self, place: _Document) -> Any:
        return self.task_dict[place.task][place.split][place.id]

    # -- the form of the requests ----------------------------------------------------------------

    def _settings(self, request: Instance) -> dict[str, Any]:
        return dict(request.args[1])

    def _document(self, request: Instance) -> _Document:
        return _Document(*request.args[3:6])

    def _question(self, request: Instance) -> Question:
        text, _, doc_to_visual, *_ = request.args
        return simple_question(text, doc_to_visual(self._document_data(self._document(request))))


class SdrpnChat(SdrpnSimple):
    """The same for requests that hold chat messages."""

    is_simple = False

    def _settings(self, request: Instance) -> dict[str, Any]:
        return dict(request.args[2])

    def _question(self, request: Instance) -> Question:
        _, doc_to_messages, *_ = request.args
        return chat_question(doc_to_messages(self._document_data(self._document(request))))

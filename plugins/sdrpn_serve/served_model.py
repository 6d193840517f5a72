"""The model behind a server: calls in, replies out; what the caller can mend comes as a refusal."""

from __future__ import annotations

import io
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteriaList, TextStreamer

from sdrpn_core import ImageError, InputError, Question, RoIModel, open_image
from sdrpn_core.cli.proposal_facts import proposal_facts
from sdrpn_core.runtime.stopping import ResponseCriteria
from sdrpn_serve.calls import Ask, Located, Look, Refusal, Reply
from sdrpn_serve.stop_strings import StopFilter

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core import Answer
    from sdrpn_serve.settings import ModelSettings

__all__ = ["ServedModel"]

_LEAST_TEMPERATURE = 1e-5
"""Below, the likeliest token is as good as certain, and logits divided by less may overflow."""


class ServedModel:
    """A model that serves calls, from any number of threads.

    Args:
        model: backbone, RPN and crop policy.
        max_pixels: images with more are refused before they are decoded.
        confidence_threshold: see
            :func:`~sdrpn_core.answering.answer.answer_batch`. An answer that may be replaced is
            reported in one piece.
    """

    def __init__(
        self, model: RoIModel, max_pixels: int, confidence_threshold: float | None = None
    ) -> None:
        self._model = model
        self._max_pixels = max_pixels
        self._confidence_threshold = confidence_threshold

    @classmethod
    def load(cls, settings: ModelSettings, max_pixels: int) -> ServedModel:
        """Load what the settings name.

        Raises:
            SdrpnError: see :meth:`sdrpn_core.RoIModel.from_pretrained`.
        """
        model = RoIModel.from_pretrained(
            settings.model,
            rpn=settings.rpn,
            policy=settings.policy,
            policy_options=dict(settings.policy_options),
            first_look_tokens=settings.first_look_tokens,
            gate_threshold=settings.gate_threshold,
            **settings.load_options,
        )
        return cls(model, max_pixels, settings.confidence_threshold)

    def answer(self, asks: Sequence[Ask]) -> list[Reply | Refusal]:
        """Answer a batch; every reply is the same as for its question alone.

        Questions with the same limits go through the model together. One that has stop strings goes
        alone: only so can its response end at the first of them.
        """
        replies: dict[int, Reply | Refusal] = {}
        groups: dict[tuple[int, float, float], list[tuple[int, Question]]] = defaultdict(list)
        for index, ask in enumerate(asks):
            if ask.stop:
                replies[index] = self.stream(ask, emit=_ignore, cancelled=threading.Event())
                continue
            try:
                question = self._question(ask)
            except InputError as error:
                replies[index] = Refusal(str(error))
            else:
                groups[ask.max_tokens, ask.temperature, ask.top_p].append((index, question))
        for group in groups.values():
            replies |= self._answer_group(asks[group[0][0]], group)
        return [replies[index] for index in range(len(asks))]

    def stream(
        self, ask: Ask, emit: Callable[[str], object], cancelled: threading.Event
    ) -> Reply | Refusal:
        """Answer a question, and report pieces of the response while it is made.

        Args:
            ask: the question.
            emit: gets each piece.
            cancelled: ends the response early once it is set.
        """
        tokenizer = self._model.backbone.tokenizer
        pieces = StopFilter(ask.stop)
        options = _generation(ask)
        if self._confidence_threshold is None:
            options["streamer"] = _Pieces(tokenizer, pieces, emit)
            ended = _Ended(lambda ids: pieces.stopped or cancelled.is_set())
        else:
            options["confidence_threshold"] = self._confidence_threshold
            ended = _Ended(lambda ids: _has_any(ask.stop, tokenizer, ids) or cancelled.is_set())
        try:
            (answer,) = self._model.answer_batch(
                [self._question(ask)], stopping_criteria=StoppingCriteriaList([ended]), **options
            )
        except InputError as error:
            return Refusal(str(error))
        if self._confidence_threshold is not None and pieces.feed(answer.text, last=True):
            emit(pieces.text)
        return _reply(answer, ask, text=pieces.text, stopped=pieces.stopped)

    def locate(self, look: Look) -> Located | Refusal:
        """Find the region that a question is about, without an answer."""
        try:
            images = self._open(look.images)
            proposals = self._model.propose(images, look.text)
        except InputError as error:
            return Refusal(str(error))
        heatmaps = [
            _png(proposal.overlay(image))
            for image, proposal in zip(images, proposals, strict=True)
            if look.heatmap
        ]
        return Located(tuple(map(proposal_facts, proposals)), tuple(heatmaps))

    def _answer_group(
        self, ask: Ask, group: Sequence[tuple[int, Question]]
    ) -> dict[int, Reply | Refusal]:
        """Answer questions that all have the limits of ``ask``."""
        replies: dict[int, Reply | Refusal] = {}

        def refuse(place: int, error: InputError) -> None:
            replies[group[place][0]] = Refusal(str(error))

        answers = self._model.answer_stream(
            [question for _, question in group],
            batch_size=len(group),
            on_error=refuse,
            confidence_threshold=self._confidence_threshold,
            **_generation(ask),
        )
        for place, answer in answers:
            replies[group[place][0]] = _reply(answer, ask, text=answer.text)
        return replies

    def _question(self, ask: Ask) -> Question:
        return Question(ask.text, tuple(self._open(ask.images)))

    def _open(self, images: Sequence[bytes]) -> list[Image.Image]:
        opened = []
        for number, image in enumerate(images, 1):
            try:
                opened.append(open_image(image, max_pixels=self._max_pixels))
            except ImageError as error:
                reason = str(error).removeprefix("<bytes>: ")
                raise ImageError(f"image {number}: {reason}") from error
        return opened


class _Pieces(TextStreamer):
    """Reports the response to a function, up to the first stop string."""

    def __init__(self, tokenizer: Any, pieces: StopFilter, emit: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.pieces = pieces
        self._emit = emit

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        piece = self.pieces.feed(text, last=stream_end)
        if piece:
            self._emit(piece)


class _Ended(ResponseCriteria):
    """Ends a response once a function of its ids says so; the prompt is not among them."""

    def __init__(self, ended: Callable[[torch.Tensor], bool]) -> None:
        self._ended = ended

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        return torch.full((len(input_ids),), self._ended(input_ids), device=input_ids.device)


def _has_any(stop: Sequence[str], tokenizer: Any, ids: torch.Tensor) -> bool:
    """Whether the only row of ids, decoded, has one of the strings in it."""
    text = tokenizer.decode(ids[0], skip_special_tokens=True) if stop else ""
    return any(one in text for one in stop if one)


def _generation(ask: Ask) -> dict[str, Any]:
    """Arguments of ``generate()``."""
    options: dict[str, Any] = {"max_new_tokens": ask.max_tokens}
    if ask.temperature >= _LEAST_TEMPERATURE:
        options |= {"do_sample": True, "temperature": ask.temperature, "top_p": ask.top_p}
        # Requests cannot name a number of tokens: neither may the checkpoint, nor transformers.
        options["top_k"] = 0
    return options


def _reply(answer: Answer, ask: Ask, *, text: str, stopped: bool = False) -> Reply:
    # The end token counts as a new one: a response of full length has none.
    cut = len(answer.ids) >= ask.max_tokens and not stopped
    facts = {
        "outcome": None if answer.outcome is None else answer.outcome.value,
        "boxes": [list(box) for box in answer.boxes],
        "images": [proposal_facts(proposal) for proposal in answer.proposals],
        "confidence": answer.confidence,
        "visual_tokens": answer.n_visual_tokens,
        "seconds": dict(answer.seconds),
    }
    return Reply(text, "length" if cut else "stop", answer.n_prompt_tokens, len(answer.ids), facts)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _ignore(piece: str) -> None:
    """Nobody reads along."""

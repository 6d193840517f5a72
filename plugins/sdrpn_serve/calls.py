"""What passes between the HTTP layer and the model: plain values, whichever machine they cross."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Ask", "Engine", "Located", "Look", "Refusal", "Reply", "Unavailable"]


@dataclass(frozen=True)
class Ask:
    """A question to answer.

    Attributes:
        text: the question.
        images: image files, encoded.
        max_tokens: upper limit of the response length.
        temperature: 0 takes the likeliest token; above, tokens are sampled.
        top_p: probability mass that tokens are sampled from.
        stop: texts before the first of which the response ends.
    """

    text: str
    images: tuple[bytes, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """A question whose region is wanted, not its answer.

    Attributes:
        text: the question.
        images: image files, encoded.
        heatmap: whether to draw the map.
    """

    text: str
    images: tuple[bytes, ...]
    heatmap: bool = False


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: the response.
        finish_reason: ``stop`` or ``length``.
        prompt_tokens: tokens of the prompt, visual ones and crops included.
        completion_tokens: generated tokens, without the end token.
        facts: what led to the answer, as JSON values.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Located:
    """Where a question looks.

    Attributes:
        images: facts per image, as JSON values.
        heatmaps: PNG files, one per image; empty if none were wanted.
    """

    images: tuple[Mapping[str, Any], ...]
    heatmaps: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """A call that cannot be served as it is; ``message`` says why, in one line."""

    message: str


class Unavailable(Exception):
    """Nobody could serve the call; another attempt may succeed."""


class Engine(Protocol):
    """Whatever serves calls. Every method may raise :class:`Unavailable`."""

    async def answer(self, ask: Ask) -> Reply | Refusal:
        """Answer a question."""
        ...

    def stream(self, ask: Ask) -> AsyncGenerator[str | Reply | Refusal, None]:
        """The pieces of a response as they are made, then the reply; or a refusal."""
        ...

    async def locate(self, look: Look) -> Located | Refusal:
        """Find the region that a question is about."""
        ...

    async def n_replicas(self) -> int:
        """How many models are ready."""
        ...

"""What requests look like: the part of OpenAI's that is served, and what to say about the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sdrpn_serve.api_errors import APIError

__all__ = ["ChatRequest", "ImagePart", "RoIRequest", "TextPart", "question_parts"]

_MAX_STOP = 4
"""As many stop strings as OpenAI takes."""

_MAX_TEMPERATURE = 2.0

#: Fields that do not change an answer here, whatever they hold: marks for others, hints about cost.
_WITHOUT_EFFECT = frozenset(
    (
        *("metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"),
        *("parallel_tool_calls", "tool_choice"),  # of tools, which are refused
    )
)

#: Fields that would change an answer, and the values that ask for nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
}


class _Strict(BaseModel):
    """Takes values of the right type only; what else a client sends is checked, or harmless."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


class TextPart(_Strict):
    """A piece of the question."""

    type: Literal["text"]
    text: str


class ImageURL(_Strict):
    """Where an image is: in the address itself, as a rule."""

    url: str


class ImagePart(_Strict):
    """An image that the question is about."""

    type: Literal["image_url"]
    image_url: ImageURL


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    """A message. Those of other roles than ``user`` are read, so that they can be refused."""

    role: str
    content: list[Part] | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _text_alone(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class StreamOptions(_Strict):
    """How an answer is streamed."""

    include_usage: bool = False


class ChatRequest(_Strict):
    """The body of ``/v1/chat/completions``."""

    model: str
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=_MAX_TEMPERATURE)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    stop: list[str] = Field(default=[], max_length=_MAX_STOP)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_none(cls, stop: Any) -> Any:
        return [] if stop is None else [stop] if isinstance(stop, str) else stop

    def check_served(self) -> None:
        """Refuse what would change the answer and is not served.

        Raises:
            APIError: names the field.
        """
        for name, value in (self.model_extra or {}).items():
            harmless = name in _WITHOUT_EFFECT or value is None
            if not harmless and value not in _NEUTRAL.get(name, ()):
                raise APIError(400, f"{name} is not supported: leave it out", param=name)
        if self.seed is not None and self.temperature:
            raise APIError(
                400,
                "seed is not supported with a temperature above 0: questions of several requests "
                "go through the model together; at temperature 0 answers repeat",
                param="seed",
            )


class RoIRequest(BaseModel):
    """The body of ``/v1/roi``."""

    model_config = ConfigDict(strict=True, extra="forbid")

    question: str
    image: list[str] = Field(min_length=1)
    model: str | None = None
    heatmap: bool = False

    @field_validator("image", mode="before")
    @classmethod
    def _single(cls, image: Any) -> Any:
        return [image] if isinstance(image, str) else image


def question_parts(request: ChatRequest) -> list[TextPart | ImagePart]:
    """What the one message holds that is served: a user's.

    Raises:
        APIError: there are several, or one of another role.
    """
    for index, message in enumerate(request.messages):
        if message.role in ("system", "developer"):
            raise APIError(
                400,
                f"{message.role} messages are not supported: put instructions into the user's "
                "message",
                param=f"messages.{index}.role",
            )
    if len(request.messages) > 1:
        raise APIError(
            400,
            f"a conversation of {len(request.messages)} messages is not supported: send one user "
            "message, with all that the question needs",
            param="messages",
        )
    (message,) = request.messages
    if message.role != "user":
        raise APIError(
            400,
            f"the message must be a user's, not of role {message.role!r}",
            param="messages.0.role",
        )
    return list(message.content or ())

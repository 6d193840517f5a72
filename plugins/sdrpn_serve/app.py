"""The HTTP layer: routes in front of an engine, whatever machine that runs on."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from itertools import groupby
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from sdrpn_core.answering.defaults import DEFAULT_MAX_NEW_TOKENS
from sdrpn_core.data.text import check_question
from sdrpn_core.errors import InputError
from sdrpn_serve.api_errors import APIError
from sdrpn_serve.calls import Ask, Engine, Look, Refusal, Reply, Unavailable
from sdrpn_serve.completions import DONE, Completion, server_sent_event
from sdrpn_serve.images import read_images
from sdrpn_serve.middleware import RETRY_AFTER_S, LimitBody, LimitQueue, LimitTime, RequireKey
from sdrpn_serve.schema import ChatRequest, ImagePart, RoIRequest, TextPart, question_parts
from sdrpn_serve.settings import Limits, ServerSettings

__all__ = ["make_app"]

T = TypeVar("T")

_LOGGER = logging.getLogger(__name__)


def make_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """The application: ``/v1/chat/completions``, ``/v1/models``, ``/v1/roi`` and ``/healthz``.

    Args:
        engine: answers.
        settings: name of the model, limits and API key.
    """
    limits = settings.limits
    app = FastAPI(title="sdrpn", docs_url=None, redoc_url=None)
    # The one that is added last comes first.
    app.add_middleware(LimitBody, max_bytes=limits.max_body_bytes)
    app.add_middleware(LimitQueue, limit=limits.max_queue)
    if settings.key_sha256 is not None:
        app.add_middleware(RequireKey, key_sha256=settings.key_sha256)
    app.add_middleware(LimitTime, seconds=limits.timeout_s)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_wrong_shape)
    started = int(time.time())

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(request: ChatRequest) -> Response:
        _check_model(request.model, settings.name)
        ask = await _ask(request, limits)
        completion = Completion(settings.name)
        if not request.stream:
            reply = _served(await _result(engine.answer(ask)))
            return JSONResponse(completion.whole(reply))
        events = engine.stream(ask)
        # Whatever is refused is refused by status: the first event comes before the response.
        first = await _next(events)
        with_usage = request.stream_options is not None and request.stream_options.include_usage
        return StreamingResponse(
            _chunks(completion, first, events, with_usage), media_type="text/event-stream"
        )

    @app.post("/v1/roi", response_model=None)
    async def roi(request: RoIRequest) -> Response:
        _check_model(request.model or settings.name, settings.name)
        _check_question(request.question, "question")
        sources = [(f"image.{index}", address) for index, address in enumerate(request.image)]
        look = Look(request.question, await read_images(sources, limits), request.heatmap)
        located = _served(await _result(engine.locate(look)))
        images: list[dict[str, Any]] = [dict(facts) for facts in located.images]
        for facts, png in zip(images, located.heatmaps, strict=False):
            facts["heatmap"] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        return JSONResponse({"object": "roi", "model": settings.name, "images": images})

    @app.get("/v1/models", response_model=None)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(settings.name, started)]}

    @app.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> dict[str, Any]:
        _check_model(name, settings.name)
        return _model(settings.name, started)

    @app.get("/healthz", response_model=None)
    async def health() -> JSONResponse:
        n_replicas = await _result(engine.n_replicas())
        if not n_replicas:
            return JSONResponse({"status": "unavailable", "replicas": 0}, 503)
        return JSONResponse({"status": "ok", "replicas": n_replicas})

    return app


async def _chunks(
    completion: Completion,
    first: str | Reply,
    events: AsyncGenerator[str | Reply | Refusal, None],
    with_usage: bool,
) -> AsyncIterator[str]:
    """The server-sent events of an answer; what goes wrong by now is an event, too."""
    try:
        yield server_sent_event(completion.first_chunk())
        event: str | Reply = first
        while isinstance(event, str):
            yield server_sent_event(completion.chunk(event))
            event = await _next(events)
        yield server_sent_event(completion.last_chunk(event))
        if with_usage:
            yield server_sent_event(completion.usage_chunk(event))
        yield DONE
    except APIError as error:
        yield server_sent_event(error.body())
    finally:
        await events.aclose()  # whoever stops reading ends the answer


async def _ask(request: ChatRequest, limits: Limits) -> Ask:
    """The question of a request."""
    request.check_served()
    parts = question_parts(request)
    asked = request.max_completion_tokens or request.max_tokens
    if asked is not None and asked > limits.max_new_tokens:
        name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
        raise APIError(
            400,
            f"{name} is {asked}, which is over this server's limit of {limits.max_new_tokens}",
            param=name,
        )
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    sources = [
        (f"messages.0.content.{index}.image_url.url", part.image_url.url)
        for index, part in enumerate(parts)
        if isinstance(part, ImagePart)
    ]
    text = "\n".join(texts)
    _check_question(text, "messages.0.content")
    return Ask(
        text,
        await read_images(sources, limits),
        max_tokens=asked or min(DEFAULT_MAX_NEW_TOKENS, limits.max_new_tokens),
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        stop=tuple(one for one in request.stop if one),
    )


def _check_question(text: str, param: str) -> None:
    try:
        check_question(text)
    except InputError as error:
        raise APIError(400, str(error), param=param) from error


def _check_model(asked: str, name: str) -> None:
    if asked != name:
        raise APIError(
            404,
            f"there is no model {asked!r}: this server has {name!r}",
            param="model",
            code="model_not_found",
        )


async def _next(events: AsyncGenerator[str | Reply | Refusal, None]) -> str | Reply:
    """The next event of an answer.

    Raises:
        APIError: it is refused, or see :func:`_result`.
    """
    event: str | Reply | Refusal = await _result(anext(events))
    if isinstance(event, Refusal):
        raise APIError(400, event.message)
    return event


async def _result(call: Awaitable[T]) -> T:
    """What a call of the engine returns.

    Raises:
        APIError: nobody could serve it, or it failed; why is for the log, since callers are to see
            nothing of the machine.
    """
    try:
        return await call
    except Unavailable as error:
        raise APIError(
            503,
            f"{error}: try again",
            code="unavailable",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        ) from error
    except Exception as error:
        _LOGGER.exception("a call failed")
        raise APIError(500, "the server failed; its log says more") from error


def _served(result: T | Refusal) -> T:
    if isinstance(result, Refusal):
        raise APIError(400, result.message)
    return result


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "sdrpn"}


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Errors of ours, and those of the framework: no such path, no such method, no JSON."""
    if not isinstance(error, APIError):
        status = error.status_code if isinstance(error, HTTPException) else 500
        reason = error.detail if isinstance(error, HTTPException) else str(error)
        error = APIError(status, f"{request.method} {request.url.path}: {reason}")
    return error.response()


async def _on_wrong_shape(request: Request, error: Exception) -> Response:
    """A body of another shape: the first thing that is wrong with it."""
    problems: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else ()
    steps = (str(step) for step in problems[0]["loc"] if step != "body")
    # Of a part of a message, its type is named like the field that it says is there.
    place = ".".join(step for step, _ in groupby(steps))
    reason = problems[0]["msg"]
    message = f"{place}: {reason}" if place else reason
    return APIError(400, message, param=place or None).response()

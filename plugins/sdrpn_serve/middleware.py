"""Bounds that hold before a request is read: who asks, how many at a time, how much, how long."""

from __future__ import annotations

import hmac
import json

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdrpn_serve.api_errors import APIError
from sdrpn_serve.settings import key_digest

__all__ = ["LimitBody", "LimitQueue", "LimitTime", "RequireKey"]

RETRY_AFTER_S = 1
"""Seconds until a request that found the queue full, or nobody to serve it, may come again."""

_OPEN_PATHS = ("/healthz",)
"""What load balancers ask without a key."""


class RequireKey:
    """Answers 401 unless a request has the key, as ``Authorization: Bearer KEY``.

    Args:
        app: what it guards.
        key_sha256: see :func:`~sdrpn_serve.settings.key_digest`.
    """

    def __init__(self, app: ASGIApp, key_sha256: str) -> None:
        self._app = app
        self._expected = key_sha256

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            # Digests are of one length, and are compared in the same time wherever they differ.
            right = hmac.compare_digest(key_digest(key.strip()), self._expected)
            if scheme.lower() != "bearer" or not right:
                error = APIError(
                    401,
                    "this server asks for an API key: send it as 'Authorization: Bearer KEY'",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


class LimitQueue:
    """Answers 429 while too many requests wait or are answered.

    Args:
        app: what it guards.
        limit: largest number at a time. Requests without a body (GET) do not count.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._n_inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._n_inside >= self._limit:
            error = APIError(
                429,
                f"{self._limit} requests are waiting or being answered: try again later",
                code="queue_full",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
            await error.response()(scope, receive, send)
            return
        self._n_inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._n_inside -= 1


class LimitBody:
    """Answers 413 to a request that is too large, before it is in memory.

    Args:
        app: what it guards.
        max_bytes: of a body, whether its length is announced or not.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = APIError(
            413,
            f"the request is over the limit of {self._max_bytes} bytes: send smaller or fewer "
            "images",
            code="request_too_large",
        )
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            await error.response()(scope, receive, send)
            return
        n_received = 0

        async def counted() -> Message:
            nonlocal n_received
            message = await receive()
            n_received += len(message.get("body", b""))
            if n_received > self._max_bytes:
                raise error
            return message

        await self._app(scope, counted, send)


class LimitTime:
    """Answers 504 to a request that takes too long; ends a stream with an error.

    Args:
        app: what it guards.
        seconds: for a request, from its first byte to its last.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = ended = False

        async def watched(message: Message) -> None:
            nonlocal begun, ended
            begun = True
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        with anyio.move_on_after(self._seconds) as limit:
            await self._app(scope, receive, watched)
        if not limit.cancelled_caught or ended:
            return
        error = APIError(504, f"no answer within {self._seconds:g} seconds", code="timeout")
        if begun:
            event = f"data: {json.dumps(error.body())}\n\n".encode()
            await send({"type": "http.response.body", "body": event, "more_body": False})
        else:
            await error.response()(scope, receive, send)

"""A server in this process, as the tests of the HTTP layer use it: real sockets, no Ray."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI
    from PIL import Image

    from sdrpn_serve.calls import Ask, Located, Look, Refusal, Reply
    from sdrpn_serve.runner import ModelRunner


class LocalEngine:
    """A model of this process as an engine; questions go through it one by one."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner

    async def answer(self, ask: Ask) -> Reply | Refusal:
        (reply,) = await self.runner.answer_batch([ask])
        return reply

    def stream(self, ask: Ask) -> AsyncGenerator[str | Reply | Refusal, None]:
        return self.runner.stream(ask)

    async def locate(self, look: Look) -> Located | Refusal:
        return await self.runner.locate(look)

    async def n_replicas(self) -> int:
        return 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serve an application on loopback; yields its address."""
    import uvicorn

    port = free_port()
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def data_uri(image: Image.Image, file_format: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def message(text: str, *images: str) -> dict[str, object]:
    """A user's message as OpenAI's documentation writes it: text first."""
    parts = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return {"role": "user", "content": [{"type": "text", "text": text}, *parts]}

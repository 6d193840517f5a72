"""Servers for tests: the HTTP layer in this process, and the whole one as users start it."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class Server:
    """A server in processes of its own.

    Attributes:
        process: runs the command.
        url: of the API.
    """

    process: subprocess.Popen[str]
    url: str

    def replicas(self) -> list[int]:
        """Process ids of the replicas that hold a model."""
        names = {pid: command(pid) for pid in descendants(self.process.pid)}
        return [
            pid for pid, name in names.items() if name.startswith("ray::ServeReplica:sdrpn:mod")
        ]

    def end(self) -> int:
        """Press Ctrl-C; returns the exit code once all processes are gone."""
        all_of_them = descendants(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        deadline = time.monotonic() + 30
        while any(command(pid) for pid in all_of_them) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = {pid: command(pid) for pid in all_of_them if command(pid)}
        assert not left, left
        return code


@contextmanager
def started(*words: str) -> Iterator[Server]:
    """Run ``sdrpn serve`` with these words, until it says that it serves."""
    port = free_port()
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "sdrpn_core", "serve", *words, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        assert "is served at" in line, f"exit code {process.wait(60)}"
        yield Server(process, f"http://127.0.0.1:{port}")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        process.stdout.close()


def descendants(pid: int) -> list[int]:
    """A process and all below it, by ``/proc``."""
    found = [pid]
    for parent in found:
        found += [child for child, its in parents().items() if its == parent]
    return found


def parents() -> dict[int, int]:
    """Process id -> that of its parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = path.read_text().rpartition(")")
        except OSError:  # it has just ended
            continue
        found[int(path.parent.name)] = int(rest.split()[1])
    return found


def command(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def data_uri(image: Image.Image, file_format: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def message(text: str, *images: str) -> dict[str, object]:
    """A user's message as OpenAI's documentation writes it: text first."""
    parts = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return {"role": "user", "content": [{"type": "text", "text": text}, *parts]}

"""Load on a server: many clients, a replica that is killed, and what batches are worth.

``python -m tests.faults.serve_load --requests 400 --clients 8`` prints its figures as JSON. Every
request gets the answer that the model gives in one process, or an error that says what is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import openai

from sdrpn_core import RoIModel, read_records
from sdrpn_glyphs import backbone_dir, rpn_dir
from tests.plugins.serving import Server, command, data_uri, descendants, message, started

FAMILY = "llava"
N_QUESTIONS = 100
MAX_TOKENS = 6
#: One request of so many is streamed while a replica dies.
STREAMED = 8
TIMEOUT_S = 120
ROUNDS = 4


@dataclass(frozen=True)
class Known:
    """A question, and what the model answers in one process."""

    text: str
    image: str
    answer: str


@dataclass
class Figures:
    """What the clients have seen.

    Attributes:
        right: answers that are those of the model in one process.
        wrong: others, with what they should have been.
        errors: by what they say.
        seconds: from the first request to the last answer.
        cpu_seconds: of the replicas that hold a model, which other programs do not change.
        latencies: seconds of each request.
        peak_mb: largest resident memory by kind of process.
    """

    right: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    peak_mb: dict[str, int] = field(default_factory=dict)

    def shown(self) -> dict[str, object]:
        """The figures as JSON values."""
        quantiles = statistics.quantiles(self.latencies, n=20)
        return {
            "right": self.right,
            "wrong": self.wrong,
            "errors": dict(self.errors),
            "seconds": round(self.seconds, 1),
            "answers per second": round(self.right / self.seconds, 1),
            "replica CPU ms per answer": round(1000 * self.cpu_seconds / self.right, 1) or None,
            "latency": {"median": round(quantiles[9], 2), "95%": round(quantiles[18], 2)},
            "peak MB": self.peak_mb,
        }


def known_answers(n: int) -> list[Known]:
    """Questions of the embedded data, answered one by one in this process."""
    model = RoIModel.from_pretrained(rpn_dir(FAMILY))
    return [
        Known(
            record.question,
            data_uri(record.images[0]),
            model.answer(record.images[0], record.question, max_new_tokens=MAX_TOKENS).text,
        )
        for record in read_records("glyphs/small", n=n)
    ]


def load(
    server: Server,
    known: list[Known],
    requests: range,
    n_clients: int,
    figures: Figures,
    *,
    kill_at: int | None = None,
    streamed: int | None = None,
) -> None:
    """Send requests from several clients at a time.

    Args:
        server: what is asked.
        known: the questions, asked in turn.
        requests: their numbers.
        n_clients: how many are on their way at a time.
        figures: what is seen is added to these.
        kill_at: the request before which a replica is killed; ``None``: nobody is.
        streamed: one request of so many is streamed; ``None``: none is.
    """
    client = openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=TIMEOUT_S
    )
    replicas, lock = server.replicas(), threading.Lock()

    def one(index: int) -> None:
        if index == kill_at:
            os.kill(replicas[0], signal.SIGKILL)
        asked = known[index % len(known)]
        clock = time.perf_counter()
        try:
            text = answered(client, asked, stream=streamed is not None and index % streamed == 0)
        except openai.APIError as error:
            with lock:
                figures.errors[str(error)] += 1
            return
        with lock:
            figures.latencies.append(time.perf_counter() - clock)
            if text == asked.answer:
                figures.right += 1
            else:
                figures.wrong.append((text, asked.answer))

    clock, before = time.perf_counter(), sum(map(_cpu_seconds, replicas))
    with ThreadPoolExecutor(n_clients) as clients:
        list(clients.map(one, requests))
    figures.seconds += time.perf_counter() - clock
    if kill_at is None:  # what a dead process has used is not known
        figures.cpu_seconds += sum(map(_cpu_seconds, replicas)) - before
    for kind, peak in peak_memory(server).items():
        figures.peak_mb[kind] = max(figures.peak_mb.get(kind, 0), peak)


def answered(client: openai.OpenAI, asked: Known, *, stream: bool) -> str:
    """The text of an answer."""
    found = client.chat.completions.create(
        model=FAMILY,
        messages=[message(asked.text, asked.image)],
        max_tokens=MAX_TOKENS,
        stream=stream,
    )
    if not stream:
        return found.choices[0].message.content
    return "".join(chunk.choices[0].delta.content or "" for chunk in found)


def peak_memory(server: Server) -> dict[str, int]:
    """Largest resident memory in MB of the processes that are ours, the largest of each kind."""
    kinds = {"ServeReplica:sdrpn:model": "model", "ServeReplica:sdrpn:gateway": "gateway"}
    peaks: dict[str, int] = {}
    for pid in descendants(server.process.pid):
        for name, kind in kinds.items():
            if command(pid).startswith(f"ray::{name}"):
                peaks[kind] = max(peaks.get(kind, 0), _peak_mb(pid))
    return peaks


def _peak_mb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return 0


def _cpu_seconds(pid: int) -> float:
    _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    user, system = rest.split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def serving(*words: str) -> AbstractContextManager[Server]:
    """A server of the embedded model whose replicas share the processors of any machine."""
    return started(
        *("--model", str(backbone_dir(FAMILY)), "--rpn", str(rpn_dir(FAMILY)), "--device", "cpu"),
        *("--cpus", "0.5", *words),
    )


def with_a_death(n_requests: int, n_clients: int) -> Figures:
    """Two replicas, one of which is killed in the middle."""
    known, figures = known_answers(min(n_requests, N_QUESTIONS)), Figures()
    with serving("--replicas", "2") as server:
        middle = n_requests // 2
        load(
            *(server, known, range(n_requests), n_clients, figures),
            kill_at=middle,
            streamed=STREAMED,
        )
    return figures


def batches_and_one_by_one(n_requests: int, n_clients: int) -> dict[str, Figures]:
    """A replica that answers questions together, and one that answers them alone, in turn."""
    known = known_answers(min(n_requests, N_QUESTIONS))
    together, alone, warming = Figures(), Figures(), Figures()
    with serving("--batch-size", "8") as batching, serving("--batch-size", "1") as single:
        pairs = ((batching, together), (single, alone))
        for server, _ in pairs:
            load(server, known, range(2 * n_clients), n_clients, warming)
        for number in range(ROUNDS):
            requests = range(n_requests)[number::ROUNDS]
            for server, figures in pairs:
                load(server, known, requests, n_clients, figures)
    return {"batches of up to 8": together, "one by one": alone}


def main() -> int:
    """Run both and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    figures = {"a replica is killed": with_a_death(options.requests, options.clients)}
    figures |= batches_and_one_by_one(options.requests // 2, options.clients)
    print(json.dumps({name: one.shown() for name, one in figures.items()}, indent=2))
    return 1 if any(one.wrong for one in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

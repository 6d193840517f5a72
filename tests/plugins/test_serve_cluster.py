"""The whole server, as users start it: right answers from replicas that die on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("ray.serve", reason="the extra 'serve' is not installed")
if not Path("/proc/self/stat").exists():
    pytest.skip("processes are found in /proc", allow_module_level=True)

import httpx2
import openai

from sdrpn_core import ConfigError, RoIModel, read_records
from sdrpn_glyphs import backbone_dir, rpn_dir
from sdrpn_serve.deployment import build
from tests.plugins.serving import Server, data_uri, message, started

pytestmark = pytest.mark.slow

N_QUESTIONS = 24


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    words = ["--rpn", str(rpn_dir("llava")), "--replicas", "2", "--cpus", "0.5", "--device", "cpu"]
    with started("--model", str(backbone_dir("llava")), *words, "--batch-size", "4") as server:
        yield server


@pytest.fixture(scope="module")
def questions() -> list[tuple[str, str, str]]:
    """Text, image and the answer that the model gives in this process."""
    model = RoIModel.from_pretrained(rpn_dir("llava"))
    return [
        (
            record.question,
            data_uri(record.images[0]),
            model.answer(record.images[0], record.question, max_new_tokens=6).text,
        )
        for record in read_records("glyphs/small", n=N_QUESTIONS)
    ]


def test_every_answer_is_right_while_a_replica_is_killed(server, questions):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    replicas = server.replicas()
    assert len(replicas) == 2
    assert httpx2.get(f"{server.url}/healthz").json() == {"status": "ok", "replicas": 2}

    def answered(question: tuple[str, str, str], stream: bool = False) -> str:
        text, image, _ = question
        found = client.chat.completions.create(
            model="llava", messages=[message(text, image)], max_tokens=6, stream=stream
        )
        if stream:
            return "".join(chunk.choices[0].delta.content or "" for chunk in found)
        return found.choices[0].message.content

    assert [answered(one, stream=True) for one in questions[:3]] == [q[2] for q in questions[:3]]
    with ThreadPoolExecutor(8) as pool:
        found = []
        for index, one in enumerate(questions):
            found.append(pool.submit(answered, one))
            if index == N_QUESTIONS // 2:
                found[index // 2].result()  # some are answered, others are not
                os.kill(replicas[0], signal.SIGKILL)
        texts = [one.result() for one in found]
    assert texts == [expected for *_, expected in questions]
    assert replicas[0] not in server.replicas()


def test_errors_cross_the_processes(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="image 1: not an image"):
            client.chat.completions.create(
                model="llava",
                messages=[message("what?", "data:image/png;base64,AAAA")],
                stream=stream,
            )
    body = b"x" * (2**25 + 1)
    assert httpx2.post(f"{server.url}/v1/roi", content=body).status_code == 413
    body = {"question": "what?", "image": "data:image/png;base64,AAAA"}
    assert httpx2.post(f"{server.url}/v1/roi", json=body).status_code == 400


def test_ctrl_c_ends_it_and_leaves_nothing_behind(server):
    assert server.end() == 130


def test_an_application_for_a_cluster_is_built_from_plain_values():
    args = {"name": "m", "model": {"model": "some/rpn"}, "limits": {"max_queue": 3}}
    assert build(args)._bound_deployment.name == "gateway"
    (replicas, _) = build({**args, "replicas": {"max_replicas": 3}})._bound_deployment.init_args
    scale = replicas._bound_deployment._deployment_config.autoscaling_config
    assert (scale.min_replicas, scale.max_replicas) == (1, 3)
    with pytest.raises(ConfigError, match="unknown field 'max_que'; did you mean 'max_queue'"):
        build({**args, "limits": {"max_que": 3}})

"""The HTTP layer, through the official client, over real sockets: answers, errors and bounds."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

import httpx2
import hypothesis
import openai
from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from hypothesis import strategies as st
from yarl import URL

from sdrpn_core import ConfigError, RoIModel, read_records
from sdrpn_glyphs import rpn_dir
from sdrpn_serve.app import make_app
from sdrpn_serve.calls import Ask, Located, Look, Reply, Unavailable
from sdrpn_serve.images import is_allowed
from sdrpn_serve.runner import ModelRunner
from sdrpn_serve.served_model import ServedModel
from sdrpn_serve.settings import Limits, ModelSettings, ServerSettings, key_digest
from tests.plugins.serving import LocalEngine, data_uri, listening, message

NAME = "glyphs"
PIXEL = data_uri(Image.new("RGB", (40, 40)))
REPLY = Reply("red dot", "stop", 9, 2, {"outcome": "ok"})


def server(engine, *, key: str | None = None, **limits) -> AbstractContextManager[str]:
    digest = None if key is None else key_digest(key)
    settings = ServerSettings(NAME, ModelSettings("unused"), Limits(**limits), key_sha256=digest)
    return listening(make_app(engine, settings))


def client_of(url: str, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def ask(client: openai.OpenAI, text: str = "what?", *images: str, **options):
    return client.chat.completions.create(
        model=NAME, messages=[message(text, *images)], **{"max_tokens": 6, **options}
    )


@pytest.fixture(scope="module")
def model() -> RoIModel:
    return RoIModel.from_pretrained(rpn_dir("llava"))


@pytest.fixture(scope="module")
def url(model) -> Iterator[str]:
    engine = LocalEngine(ModelRunner(ServedModel(model, 10**6), 1))
    with server(engine, max_images=3, max_new_tokens=20) as url:
        yield url


@pytest.fixture(scope="module")
def client(url) -> openai.OpenAI:
    return client_of(url)


@pytest.fixture(scope="module")
def records():
    return read_records("glyphs/small", n=3)


# -- answers -------------------------------------------------------------------------------------


def test_answers_are_those_of_the_model(client, model, records):
    for record in records:
        expected = model.answer(record.images[0], record.question, max_new_tokens=6)
        found = ask(client, record.question, data_uri(record.images[0]))
        (choice,) = found.choices
        assert (choice.message.role, choice.message.content) == ("assistant", expected.text)
        assert choice.finish_reason == "stop"
        assert found.usage.prompt_tokens == expected.n_prompt_tokens
        assert found.usage.completion_tokens == len(expected.ids)
        assert found.usage.total_tokens == expected.n_prompt_tokens + len(expected.ids)
        assert found.model == NAME
        assert found.sdrpn["boxes"] == [list(box) for box in expected.boxes]
        assert found.sdrpn["outcome"] == str(expected.outcome)
        assert found.sdrpn["visual_tokens"] == expected.n_visual_tokens
        assert found.sdrpn["seconds"].keys() == expected.seconds.keys()


def test_a_stream_adds_up_to_the_answer(client, records):
    record = records[0]
    whole = ask(client, record.question, data_uri(record.images[0]))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    first, *pieces, last, usage = ask(
        client, record.question, data_uri(record.images[0]), **options
    )
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert len(pieces) > 1
    text = "".join(chunk.choices[0].delta.content for chunk in pieces)
    assert text == whole.choices[0].message.content
    assert (last.choices[0].finish_reason, usage.choices) == ("stop", [])
    assert usage.usage == whole.usage
    assert last.sdrpn["boxes"] == whole.sdrpn["boxes"]
    assert len({chunk.id for chunk in (first, *pieces, last, usage)}) == 1
    without = [*ask(client, record.question, data_uri(record.images[0]), stream=True)]
    assert [chunk.usage for chunk in without] == [None] * len(without)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stop", [" ", ["zzz", " "]])
def test_a_response_ends_before_a_stop_string(client, records, stop, stream):
    record = records[0]
    found = ask(client, record.question, data_uri(record.images[0]), stop=stop, stream=stream)
    expected = record.answer.split()[0]
    if stream:
        *pieces, last = found
        assert "".join(chunk.choices[0].delta.content for chunk in pieces) == expected
        assert last.choices[0].finish_reason == "stop"
    else:
        assert found.choices[0].message.content == expected
        assert found.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_response_is_cut_at_the_limit(client, records, name):
    record = records[0]
    options = {"max_tokens": openai.omit, name: 1}
    found = ask(client, record.question, data_uri(record.images[0]), **options)
    assert found.choices[0].message.content == record.answer.split()[0]
    assert found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == 1


def test_several_images_and_none(client, model, records):
    images = [record.images[0] for record in records]
    text = records[1].question
    expected = model.answer(images, text, max_new_tokens=6)
    found = ask(client, text, *map(data_uri, images))
    assert found.choices[0].message.content == expected.text
    assert found.sdrpn["boxes"] == [list(box) for box in expected.boxes]
    assert len(found.sdrpn["images"]) == 3
    assert ask(client, "what is it").sdrpn["images"] == []
    plain_text = client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": "what is it"}]
    )
    assert plain_text.choices[0].message.content


def test_what_asks_for_nothing_special_is_taken(client, records):
    record = records[0]
    options = {
        "n": 1,
        "presence_penalty": 0.0,
        "frequency_penalty": 0,
        "logprobs": False,
        "response_format": {"type": "text"},
        "tools": [],
        "seed": 3,
        "temperature": 0,
        "user": "me",
        "metadata": {"a": "b"},
        "top_p": 1.0,
        "stop": None,
    }
    found = ask(client, record.question, data_uri(record.images[0]), **options)
    assert found.choices[0].message.content == record.answer


def test_regions_without_an_answer(url, model, records):
    record = records[0]
    body = {"question": record.question, "image": data_uri(record.images[0])}
    found = httpx2.post(f"{url}/v1/roi", json=body).json()
    (proposal,) = model.propose(record.images[0], record.question)
    (facts,) = found["images"]
    assert [tuple(crop["box"]) for crop in facts["crops"]] == proposal.boxes
    assert facts["outcome"] == str(proposal.plan.outcome)
    assert "heatmap" not in facts

    body |= {"image": [body["image"]] * 2, "heatmap": True, "model": NAME}
    found = httpx2.post(f"{url}/v1/roi", json=body).json()
    assert len(found["images"]) == 2
    head, _, png = found["images"][0]["heatmap"].partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(png))).size == (
        proposal.overlay(record.images[0]).size
    )


def test_models_and_health(client, url):
    (listed,) = client.models.list()
    assert (listed.id, listed.owned_by) == (NAME, "sdrpn")
    assert client.models.retrieve(NAME) == listed
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.models.retrieve("other")
    assert httpx2.get(f"{url}/healthz").json() == {"status": "ok", "replicas": 1}


# -- refusals ------------------------------------------------------------------------------------


def part(**fields) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "text", "text": "what?"}, fields]}]


def image_part(address: object) -> list[dict[str, object]]:
    return part(type="image_url", image_url={"url": address})


URL_PARAM = "messages.0.content.1.image_url.url"
SYSTEM = {"role": "system", "content": "be brief"}


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "what?"}, "messages", "valid list"),
        ({"messages": [SYSTEM, message("what?")]}, "messages.0.role", "put instructions into"),
        ({"messages": [message("a"), message("b")]}, "messages", "conversation of 2 messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role", "role 'tool'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "is empty"),
        ({"messages": [message(" ")]}, "messages.0.content", "is empty"),
        ({"messages": [message("\ud800")]}, "messages.0.content", "not valid Unicode"),
        ({"messages": part(type="video")}, "messages.0.content.1", "'type'"),
        ({"messages": part(type="image_url")}, "messages.0.content.1.image_url", "required"),
        ({"messages": image_part(3)}, URL_PARAM, "valid string"),
        ({"messages": image_part("photo.png")}, URL_PARAM, "is not fetched"),
        ({"messages": image_part("/etc/passwd")}, URL_PARAM, "is not fetched"),
        ({"messages": image_part("file:///etc/passwd")}, URL_PARAM, "is not fetched"),
        ({"messages": image_part("http://localhost/a.png")}, URL_PARAM, "is not fetched"),
        ({"messages": image_part("http://[")}, URL_PARAM, ""),
        ({"messages": image_part("data:text/plain;base64,AAAA")}, URL_PARAM, "send the image as"),
        ({"messages": image_part("data:image/png,AAAA")}, URL_PARAM, "send the image as"),
        ({"messages": image_part("data:image/png;base64")}, URL_PARAM, "send the image as"),
        ({"messages": image_part("data:image/png;base64,AA-_!AA==")}, URL_PARAM, "valid base64"),
        ({"messages": image_part("data:image/png;base64,A\u00e4")}, URL_PARAM, "valid base64"),
        ({"messages": image_part("data:image/png;base64,AAAA")}, None, "image 1: not an image"),
        ({"messages": [message("a", *[PIXEL] * 4)]}, "messages.0.content.4.image_url.url", "of 3"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": "5"}, "max_tokens", "valid integer"),
        ({"max_tokens": True}, "max_tokens", "valid integer"),
        ({"max_tokens": 21}, "max_tokens", "over this server's limit of 20"),
        ({"max_completion_tokens": 21}, "max_completion_tokens", "limit of 20"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": 0.5, "seed": 1}, "seed", "not supported with a temperature"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stop": 3}, "stop", "valid list"),
        ({"n": 2}, "n", "not supported"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"typo": 1}, "typo", "not supported"),
        ({"stream": "yes"}, "stream", "valid boolean"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_in_one_line(url, change, param, said):
    body = {"model": NAME, "messages": [message("what?")], **change}
    found = httpx2.post(
        f"{url}/v1/chat/completions",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    assert found.status_code == 400
    error = found.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert said in error["message"]
    assert error["message"].isprintable()


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_sees_errors_as_its_own(client, stream):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, "what?", "data:image/png;base64,AAAA", stream=stream)
    assert raised.value.message.startswith("Error code: 400 - image 1: not an image")
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="other", messages=[message("what?")], stream=stream)
    assert (raised.value.param, raised.value.code) == ("model", "model_not_found")


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, '{"a": 1' + "0" * 5000 + "}", "\xff"])
def test_what_is_no_json_is_refused(url, content):
    headers = {"Content-Type": "application/json"}
    found = httpx2.post(
        f"{url}/v1/chat/completions", content=content.encode("latin-1"), headers=headers
    )
    assert found.status_code == 400
    assert found.json()["error"]["message"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["user", "text", "image_url", "data:image/png;base64,", "http://a", PIXEL]),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "image_url", "url"]) | st.text(),
            values,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        *("model", "messages", "max_tokens", "temperature", "top_p", "stop", "stream", "seed", "n"),
        *("stream_options", "tools", "logit_bias", "question", "image", "heatmap"),
    ]
)


@hypothesis.settings(max_examples=100)
@hypothesis.given(st.dictionaries(FIELDS | st.text(), JSON, max_size=4), st.booleans(), JSON)
def test_whatever_is_sent_is_answered_or_refused_in_the_shape_of_openai(
    scripted, body, is_question, content
):
    if is_question:
        body = {"model": NAME, "messages": [{"role": "user", "content": content}], **body}
    headers = {"Content-Type": "application/json"}
    for path in ("/v1/chat/completions", "/v1/roi"):
        found = scripted.post(path, content=json.dumps(body), headers=headers)
        assert found.status_code in (200, 400, 404, 503), found.text
        if found.status_code != 200:
            assert found.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/embeddings", 404)],
)
def test_other_paths_and_methods_have_errors_of_the_same_shape(url, method, path, status):
    found = httpx2.request(method, url + path)
    assert found.status_code == status
    assert path in found.json()["error"]["message"]


def test_regions_need_what_they_are_asked_with(url):
    for body, param in (
        ({"question": "what?"}, "image"),
        ({"question": "what?", "image": []}, "image"),
        ({"question": "", "image": PIXEL}, "question"),
        ({"question": "what?", "image": "a.png"}, "image.0"),
        ({"question": "what?", "image": PIXEL, "typo": 1}, "typo"),
    ):
        found = httpx2.post(f"{url}/v1/roi", json=body)
        assert (found.status_code, found.json()["error"]["param"]) == (400, param)
    found = httpx2.post(f"{url}/v1/roi", json={"question": "a", "image": PIXEL, "model": "other"})
    assert found.status_code == 404


# -- bounds --------------------------------------------------------------------------------------


class Scripted:
    """An engine that does as it is told, and says how often it was called."""

    def __init__(self, then: Callable[[], object] = lambda: REPLY) -> None:
        self.then = then
        self.asks: list[Ask] = []
        self.n_ended = 0
        self.n_ready = 1

    async def answer(self, ask: Ask) -> Reply:
        self.asks.append(ask)
        found = self.then()
        return await found if asyncio.iscoroutine(found) else found

    async def stream(self, ask: Ask) -> AsyncGenerator[str | Reply, None]:
        self.asks.append(ask)
        try:
            yield "red "
            yield await self.answer(ask)
        finally:
            self.n_ended += 1

    async def locate(self, look: Look) -> Located:
        raise Unavailable("nobody is there")

    async def n_replicas(self) -> int:
        return self.n_ready


async def never() -> Reply:
    await asyncio.sleep(60)
    return REPLY


@pytest.fixture(scope="module")
def scripted() -> Iterator[httpx2.Client]:
    """A client of a server whose answers are known beforehand."""
    with server(Scripted()) as url, httpx2.Client(base_url=url) as client:
        yield client


def raises(error: Exception) -> Callable[[], Reply]:
    def then() -> Reply:
        raise error

    return then


def chunked(n_bytes: int) -> Iterator[bytes]:
    for _ in range(0, n_bytes, 1000):
        yield b"x" * 1000


def test_a_request_that_is_too_large_is_refused_whether_its_size_is_announced_or_not():
    engine = Scripted()
    with server(engine, max_body_bytes=20_000) as url:
        path = f"{url}/v1/chat/completions"
        headers = {"Content-Type": "application/json"}
        for content in (b"x" * 20_001, chunked(21_000)):
            found = httpx2.post(path, content=content, headers=headers)
            assert found.status_code == 413
            assert found.json()["error"]["code"] == "request_too_large"
        assert found.request.headers["transfer-encoding"] == "chunked"
        assert ask(client_of(url), "x" * 15_000).choices
    assert len(engine.asks) == 1


def test_a_full_queue_is_said_with_the_time_to_come_back():
    gate = threading.Event()

    async def wait() -> Reply:
        await asyncio.to_thread(gate.wait)
        return REPLY

    engine = Scripted(wait)
    with server(engine, max_queue=2) as url, ThreadPoolExecutor(2) as pool:
        client = client_of(url)
        waiting = [pool.submit(ask, client) for _ in range(2)]
        while len(engine.asks) < 2:
            time.sleep(0.005)
        with pytest.raises(openai.RateLimitError) as raised:
            ask(client)
        assert raised.value.code == "queue_full"
        assert int(raised.value.response.headers["retry-after"]) >= 1
        assert client.models.list().data, "requests that wait for nothing are still served"
        engine.then = lambda: REPLY
        gate.set()
        assert all(one.result().choices for one in waiting)
        assert ask(client).choices, "the queue is free again"


def test_a_request_that_takes_too_long_ends():
    engine = Scripted(never)
    with server(engine, timeout_s=0.2) as url:
        client = client_of(url)
        with pytest.raises(openai.InternalServerError) as raised:
            ask(client)
        assert (raised.value.status_code, raised.value.code) == (504, "timeout")
        stream = ask(client, stream=True)
        with pytest.raises(openai.APIError, match=r"no answer within 0\.2 seconds"):
            list(stream)
        assert engine.n_ended == 1


def test_a_body_that_never_comes_ends_too():
    def slow() -> Iterator[bytes]:
        yield b"{"
        time.sleep(0.5)
        yield b"}"

    with server(Scripted(), timeout_s=0.1) as url:
        headers = {"Content-Type": "application/json"}
        found = httpx2.post(f"{url}/v1/chat/completions", content=slow(), headers=headers)
        assert found.status_code == 504


def test_a_client_that_leaves_ends_its_stream():
    engine = Scripted(never)
    with server(engine) as url:
        stream = ask(client_of(url), stream=True)
        next(stream)
        next(stream)
        stream.close()
        deadline = time.monotonic() + 5
        while not engine.n_ended and time.monotonic() < deadline:
            time.sleep(0.01)
    assert engine.n_ended == 1


def test_a_key_is_asked_for_everywhere_but_by_the_health_check():
    with server(Scripted(), key="secret") as url:
        assert ask(client_of(url, "secret")).choices
        for key in ("wrong", "secret2", "secre"):
            with pytest.raises(openai.AuthenticationError) as raised:
                client_of(url, key).models.list()
            assert raised.value.code == "invalid_api_key"
        for value in (b"", b"Basic secret", b"secret", b"Bearer", "Bearer sécret".encode()):
            headers = {"Authorization": value} if value else {}
            for path in ("/v1/models", "/openapi.json", "/nowhere"):
                found = httpx2.get(url + path, headers=headers)
                assert (found.status_code, found.headers["www-authenticate"]) == (401, "Bearer")
        assert httpx2.get(f"{url}/healthz").status_code == 200


def test_what_nobody_can_serve_may_be_tried_again():
    engine = Scripted(raises(Unavailable("the replica is gone")))
    with server(engine) as url:
        client = client_of(url)
        with pytest.raises(openai.InternalServerError) as raised:
            ask(client)
        assert (raised.value.status_code, raised.value.code) == (503, "unavailable")
        assert raised.value.response.headers["retry-after"]
        with pytest.raises(openai.APIError, match="the replica is gone: try again"):
            list(ask(client, stream=True))
        assert httpx2.post(f"{url}/v1/roi", json={"question": "a", "image": PIXEL}).is_error
        engine.n_ready = 0
        assert httpx2.get(f"{url}/healthz").status_code == 503


def test_a_defect_shows_nothing_of_the_machine():
    with server(Scripted(raises(ValueError("/secret/path")))) as url:
        client = client_of(url)
        with pytest.raises(openai.InternalServerError) as raised:
            ask(client)
        assert raised.value.status_code == 500
        assert "secret" not in raised.value.response.text
        with pytest.raises(openai.APIError, match="the server failed") as raised:
            list(ask(client, stream=True))


# -- images from elsewhere -----------------------------------------------------------------------


@contextmanager
def image_host() -> Iterator[tuple[str, list[str]]]:
    """A host of images; yields its address and the paths it was asked for."""
    app = FastAPI()
    asked: list[str] = []

    @app.get("/{path:path}")
    def image(path: str) -> Response:
        asked.append(path)
        if path == "moved.png":
            return RedirectResponse("/photo.png")
        if path == "missing.png":
            return Response("no", 404)
        content = base64.b64decode(PIXEL.partition(",")[2])
        return Response(content if path == "photo.png" else b"x" * 200_000)

    with listening(app) as url:
        yield url, asked


def test_images_are_fetched_from_named_hosts_alone():
    engine = Scripted()
    with image_host() as (host, asked):
        where = host.removeprefix("http://")
        with server(engine, url_hosts=(where,), max_body_bytes=100_000, timeout_s=5) as url:
            client = client_of(url)
            assert ask(client, "what?", f"{host}/photo.png").choices
            assert engine.asks[-1].images == (base64.b64decode(PIXEL.partition(",")[2]),)
            port = where.partition(":")[2]
            for address, said in (
                (f"{host}/moved.png", "answers with status 307"),
                (f"{host}/missing.png", "answers with status 404"),
                (f"{host}/huge.png", "is over 100000 bytes"),
                (f"http://localhost:{port}/photo.png", f"or from {where}"),
                (f"http://127.0.0.1:{int(port) - 1}/photo.png", "is not fetched"),
                (f"http://user@{where}/photo.png", "is not fetched"),
                (f"http://{where}\\@localhost:{port}/photo.png", ""),
                (f"ftp://{where}/photo.png", "is not fetched"),
                (f"file://{where}/photo.png", "is not fetched"),
            ):
                with pytest.raises(openai.BadRequestError) as raised:
                    ask(client, "what?", address)
                assert said in raised.value.message
                assert raised.value.code == "invalid_image_url"
        assert asked == ["photo.png", "moved.png", "missing.png", "huge.png"]
        with server(strict := Scripted()) as url:
            with pytest.raises(openai.BadRequestError, match="is not fetched"):
                ask(client_of(url), "what?", f"{host}/photo.png")
            assert not strict.asks
        assert len(asked) == 4


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://img.org/a.png", {"img.org", "img.org:443"}),
        ("https://img.org:443/a.png", {"img.org", "img.org:443"}),
        ("http://IMG.org/a.png", {"img.org"}),
        ("http://img.org:443/a.png", {"img.org:443"}),
        ("http://img.org:8000/a.png", set()),
        ("https://img.org.evil.net/a.png", set()),
        ("ftp://img.org/a.png", set()),
        ("https://me@img.org/a.png", set()),
        ("a.png", set()),
    ],
)
def test_a_host_stands_for_its_usual_ports(address, expected):
    hosts = ("Img.ORG", "img.org:443")  # as a file of settings may spell them
    allowed = {
        one.lower() for one in hosts if is_allowed(URL(address), Limits(url_hosts=(one,)).url_hosts)
    }
    assert allowed == expected


def test_a_host_that_is_down_is_said():
    with image_host() as (host, _):
        where = host.removeprefix("http://")
    with (
        server(Scripted(), url_hosts=(where,)) as url,
        pytest.raises(openai.BadRequestError, match="cannot be fetched"),
    ):
        ask(client_of(url), "what?", f"{host}/photo.png")


def test_the_digest_of_a_key_is_one():
    digest = key_digest("secret")
    settings = ServerSettings(NAME, ModelSettings("unused"), key_sha256=digest.upper())
    assert settings.key_sha256 == digest
    for wrong in ("secret", f"{digest}  -", ""):
        with pytest.raises(ConfigError, match="key_sha256 must be the 64 hexadecimal digits"):
            replace(settings, key_sha256=wrong)


def test_limits_are_positive():
    with pytest.raises(ConfigError, match="max_queue must be more than 0, not 0"):
        replace(Limits(), max_queue=0)
    with pytest.raises(ConfigError, match=r"timeout_s must be more than 0, not 0\.0"):
        replace(Limits(), timeout_s=0.0)

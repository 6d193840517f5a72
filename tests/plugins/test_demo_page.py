"""The demo in a real browser: Chromium, without a network."""

from __future__ import annotations

import shutil
import socket

import pytest

pytest.importorskip("gradio", reason="needs the extra demo")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

from sdrpn_core import RoIModel, open_image, read_records  # noqa: E402
from sdrpn_demo.page import make_page  # noqa: E402
from sdrpn_glyphs import rpn_dir  # noqa: E402

CHROMIUM = shutil.which("chromium")
LIMITS = {"max_new_tokens": 4, "max_pixels": 10**6, "max_bytes": 10**6}
PATIENCE = 120_000  # milliseconds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    # Gradio's and its server's own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def model():
    return RoIModel.from_pretrained(rpn_dir("llava"))


@pytest.fixture(scope="module")
def records():
    return read_records("glyphs/small", n=2)


@pytest.fixture(scope="module")
def images(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{index}.png" for index in range(len(records))]
    for path, record in zip(paths, records, strict=True):
        open_image(record.images[0]).save(path)
    return paths


@pytest.fixture(scope="module")
def address(model, records, images):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = make_page(model, [(str(images[0]), records[0].question)], **LIMITS)
    page.launch(
        server_name="127.0.0.1",
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        max_file_size=LIMITS["max_bytes"],
    )
    yield f"http://127.0.0.1:{port}"
    page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def visit(browser, address):
    page = browser.new_page(viewport={"width": 1200, "height": 1500})
    page.set_default_timeout(PATIENCE)
    urls = []
    page.on(
        "request",
        lambda r: (
            None if r.url.startswith(("http://127.0.0.1", "data:", "blob:")) else urls.append(r.url)
        ),
    )
    page.goto(address)
    page.get_by_role("button", name="Ask").wait_for()
    return page, urls


def others(urls):
    """Addresses outside this machine."""
    return [url for url in urls if not url.startswith(("http://127.0.0.1", "data:", "blob:"))]


def put(page, path, question):
    page.locator("input[type=file]").first.set_input_files(path)
    page.get_by_label("Question").fill(question)


def answers(page):
    page.wait_for_function("document.body.innerText.includes('outcome')", timeout=PATIENCE)
    return (
        page.get_by_label("Plain answer").input_value(),
        page.get_by_label("Answer with a closer look").input_value(),
    )


def test_a_question_about_an_upload_shows_the_right_box(browser, address, model, records, images):
    page, urls = visit(browser, address)
    put(page, images[0], records[0].question)
    page.locator("text=0.png").first.wait_for()
    page.get_by_role("button", name="Ask").click()
    plain, found = answers(page)
    expected = model.answer(images[0], records[0].question, max_new_tokens=4)
    assert found == expected.text == records[0].answer
    assert plain
    shown = "".join(page.locator("body").inner_text().split())
    for number in expected.boxes[0]:
        assert str(number) in shown
    assert others(urls) == []
    page.close()


def test_a_broken_file_is_a_message(browser, address, images, tmp_path):
    page, _ = visit(browser, address)
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:200])
    put(page, broken, "what color?")
    page.get_by_text("broken.png: broken image: image file is truncated", exact=True).wait_for()
    page.close()


def test_two_clients_at_once(browser, address, records, images):
    pages = [visit(browser, address)[0] for _ in images]
    for page, path, record in zip(pages, images, records, strict=True):
        put(page, path, record.question)
        page.locator(f"text={path.name}").first.wait_for()
    for page in pages:
        page.get_by_role("button", name="Ask").click()
    found = [answers(page)[1] for page in pages]
    assert found == [record.answer for record in records]
    for page in pages:
        page.close()

"""The page: controls, two answers side by side, and what led to the second one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import typer

from sdrpn_core import RoIModel, SdrpnError, get_plugins, open_image
from sdrpn_demo.session import ask

__all__ = ["make_page", "run_page"]

_MAX_CLIENTS = 2
"""Questions that are answered at a time; others wait."""


_DELETE_UPLOADS = (600, 3600)
"""Every so many seconds, uploads and images older than so many seconds are deleted."""


def make_page(
    model: RoIModel,
    examples: Sequence[tuple[str, str]],
    *,
    max_new_tokens: int,
    max_pixels: int,
    max_bytes: int,
) -> gr.Blocks:
    """Lay out the demo.

    Args:
        model: backbone, RPN and crop policy.
        examples: path of an image, and a question.
        max_new_tokens: upper limit of each response.
        max_pixels: images with more are refused.
        max_bytes: likewise, files with more bytes.
    """
    limits = {"max_new_tokens": max_new_tokens, "max_pixels": max_pixels, "max_bytes": max_bytes}

    def show(image: str | None) -> Any:
        if image is None:
            return None
        try:
            return open_image(image, max_pixels=max_pixels, max_bytes=max_bytes)
        except SdrpnError as error:
            raise _shown(error, image) from error

    def answer(image: str | None, question: str, name: str, threshold: float) -> Iterator[Any]:
        try:
            for view in ask(model, image, question, policy=name, threshold=threshold, **limits):
                yield view.plain, view.found, view.overlay, list(view.crops), dict(view.facts)
        except SdrpnError as error:
            raise _shown(error, image) from error

    with gr.Blocks(title="sdrpn", analytics_enabled=False, delete_cache=_DELETE_UPLOADS) as page:
        with gr.Row():
            with gr.Column():
                # Not gr.Image: it decodes uploads itself, with neither our limits nor our messages.
                image = gr.File(type="filepath", file_count="single", label="Image")
                preview = gr.Image(interactive=False, show_label=False, height=320)
            with gr.Column():
                question = gr.Textbox(label="Question")
                name = gr.Dropdown(
                    get_plugins().crop_policies.names(),
                    value=model.rpn.config.policy,
                    label="Policy",
                )
                threshold = gr.Slider(
                    0, 0.99, model.policy.options().get("threshold"), label="Threshold"
                )
                button = gr.Button("Ask", variant="primary")
        with gr.Row():
            plain = gr.Textbox(label="Plain answer")
            found = gr.Textbox(label="Answer with a closer look")
        overlay = gr.Image(label="Heatmap and boxes", interactive=False)
        crops = gr.Gallery(label="Crops", height=240, object_fit="contain")
        facts = gr.JSON(label="Outcome, boxes and seconds per stage")
        image.change(show, [image], [preview])
        button.click(
            answer,
            [image, question, name, threshold],
            [plain, found, overlay, crops, facts],
            concurrency_limit=_MAX_CLIENTS,
        )
        if examples:
            gr.Examples([list(one) for one in examples], [image, question], cache_examples=False)
    return page


def run_page(page: gr.Blocks, *, host: str, port: int, max_bytes: int) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        SdrpnError: the port cannot be had.
    """
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=max_bytes,
            theme=theme,
            footer_links=[],
            ssr_mode=False,
        )
    except OSError as error:
        raise SdrpnError(f"cannot listen at {host}:{port}: choose another --port") from error
    try:
        typer.echo(f"the demo is at http://{host}:{port} (Ctrl-C ends it)")
        threading.Event().wait()
    finally:
        page.close(verbose=False)


def _shown(error: SdrpnError, image: str | None) -> gr.Error:
    """The error as a message on the page, without the server's folders; the log stays quiet."""
    message = str(error)
    if image is not None:
        message = message.replace(image, Path(image).name)
    return gr.Error(message, print_exception=False)

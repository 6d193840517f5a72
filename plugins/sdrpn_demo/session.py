"""What happens to a question: the plain answer, then the one with a closer look, as they grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from transformers import TextIteratorStreamer

from sdrpn_core import Answer, RoIModel, answer, open_image

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

__all__ = ["View", "ask"]


@dataclass(frozen=True)
class View:
    """What is known of the two answers so far.

    Attributes:
        plain: the plain answer.
        found: the answer with a closer look.
        overlay: heatmap and boxes on the image; ``None`` until the end.
        crops: what was looked at.
        facts: outcome, the gate's probability per image (null without a gate), boxes, and seconds
            per stage of both answers.
    """

    plain: str = ""
    found: str = ""
    overlay: Image.Image | None = None
    crops: tuple[Image.Image, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def ask(
    model: RoIModel,
    source: str | Path | bytes | None,
    question: str,
    *,
    policy: str | None = None,
    threshold: float | None = None,
    max_new_tokens: int,
    max_pixels: int,
    max_bytes: int,
) -> Iterator[View]:
    """Answer a question twice.

    Args:
        model: backbone, RPN and crop policy.
        source: path or bytes of the image.
        question: the question.
        policy: name of the crop policy; default: the model's.
        threshold: of the policy; default: its own.
        max_new_tokens: upper limit of each response.
        max_pixels: images with more are refused.
        max_bytes: likewise, files with more bytes.

    Yields:
        The growing answers; the last view has everything.

    Raises:
        ImageError: there is no image, or it cannot be read.
        InputError: the question cannot be asked.
        ConfigError: the policy cannot have that threshold.
        UnknownNameError: no policy of that name.
    """
    image = open_image(source or b"", max_pixels=max_pixels, max_bytes=max_bytes)
    if policy is not None or threshold is not None:
        options = {} if threshold is None else {"threshold": threshold}
        model = model.with_policy(policy, options)
    view = View()

    def plainly(**options: Any) -> Answer:
        return answer(model.backbone, image, question, **options)

    def closely(**options: Any) -> Answer:
        return model.answer(image, question, **options)

    plain = found = None
    for step in _streamed(model, plainly, max_new_tokens):
        plain = step if isinstance(step, Answer) else None
        view = replace(view, plain=step.text if isinstance(step, Answer) else step)
        yield view
    for step in _streamed(model, closely, max_new_tokens):
        found = step if isinstance(step, Answer) else None
        view = replace(view, found=step.text if isinstance(step, Answer) else step)
        yield view
    if plain is not None and found is not None:
        yield replace(
            view,
            overlay=found.overlay(image),
            crops=tuple(image.crop(box) for box in found.boxes),
            facts={
                "outcome": str(found.outcome),
                "gate": [proposal.gate for proposal in found.proposals],
                "boxes": [list(box) for box in found.boxes],
                "seconds": {"plain": dict(plain.seconds), "region": dict(found.seconds)},
            },
        )


def _streamed(
    model: RoIModel, run: Callable[..., Answer], max_new_tokens: int
) -> Iterator[str | Answer]:
    """The text as it grows, then the answer."""
    streamer = TextIteratorStreamer(
        model.backbone.tokenizer, skip_prompt=True, skip_special_tokens=True
    )

    def work() -> Answer:
        try:
            return run(streamer=streamer, max_new_tokens=max_new_tokens)
        finally:
            streamer.end()  # a second end is never read; without one, an error would hang

    with ThreadPoolExecutor(1, "demo") as thread:
        running = thread.submit(work)
        text = ""
        for piece in streamer:
            text += piece
            yield text
        yield running.result()

"""``sdrpn ask``: one question, its answer, and the region that the answer comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdrpn_core.answering.defaults import DEFAULT_MAX_NEW_TOKENS
from sdrpn_core.cli.image_limit import MaxPixels
from sdrpn_core.cli.image_output import check_image_path, numbered, save_image
from sdrpn_core.cli.model_options import (
    AttnImplementation,
    Device,
    DType,
    NamedModelPath,
    Revision,
    load_options,
    load_roi_model,
)
from sdrpn_core.cli.policy_options import (
    ConfidenceThreshold,
    FirstLookTokens,
    GateThreshold,
    PolicyName,
    PolicyOptions,
    Threshold,
    policy_changes,
)
from sdrpn_core.cli.proposal_facts import proposal_facts
from sdrpn_core.cli.question_input import ImagePath, MoreImages, QuestionText, open_images
from sdrpn_core.data.limits import MAX_PIXELS
from sdrpn_core.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.answering.results import Answer

__all__ = ["ask"]


def ask(
    image: ImagePath,
    question: QuestionText,
    model: NamedModelPath = None,
    more_images: MoreImages = None,
    rpn: Annotated[
        str | None, typer.Option(help="RPN: local folder or Hub ID; without it, the plain answer.")
    ] = None,
    policy: PolicyName = None,
    threshold: Threshold = None,
    policy_option: PolicyOptions = None,
    first_look_tokens: FirstLookTokens = None,
    gate_threshold: GateThreshold = None,
    confidence_threshold: ConfidenceThreshold = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of the answer.")] = (
        DEFAULT_MAX_NEW_TOKENS
    ),
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the answer as it is generated.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(help="Save an image of the heatmap and the crops (.png), one per image."),
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Answer a question about an image, with a closer look at the region that matters."""
    if model is None and rpn is None:
        raise ConfigError("no model: give --model, or --rpn with an RPN that names its backbone")
    if rpn is None:
        _check_plain(
            has_policy=policy is not None or threshold is not None or bool(policy_option),
            gate_threshold=gate_threshold,
            confidence_threshold=confidence_threshold,
        )
    if confidence_threshold is not None and stream:
        raise ConfigError("--stream and --confidence-threshold cannot be combined")
    if stream and as_json:
        raise ConfigError("--stream and --json cannot be combined")
    if save is not None:
        check_image_path(save)
    changes = policy_changes(threshold, policy_option)
    images = open_images(image, more_images, question, max_pixels)

    from sdrpn_core.answering.answer import answer
    from sdrpn_core.backbone.loading import load_backbone

    loading = load_options(dtype, device, attn_implementation, revision)
    reply: Callable[..., Answer]
    if rpn is None:
        # One of both is given.
        backbone = load_backbone(str(model), **loading)
        reply = partial(answer, backbone)
    else:
        looking = load_roi_model(
            model,
            rpn,
            policy=policy,
            policy_options=changes,
            gate_threshold=gate_threshold,
            **loading,
        )
        backbone, reply = looking.backbone, looking.answer
    options: dict[str, Any] = {}
    if stream:
        from transformers import TextStreamer

        # The prompt that is reported first is empty.
        options["streamer"] = TextStreamer(
            backbone.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
    found = reply(
        images,
        question,
        max_new_tokens=max_new_tokens,
        first_look_tokens=first_look_tokens,
        confidence_threshold=confidence_threshold,
        **options,
    )
    files = [] if save is None else _save(images, question, found, save)
    if as_json:
        typer.echo(json.dumps({**_facts(found), "overlays": [str(path) for path in files]}))
        return
    if not stream:
        typer.echo(found.text)
    _print(found, files)


def _check_plain(
    *, has_policy: bool, gate_threshold: float | None, confidence_threshold: float | None
) -> None:
    """Refuse what needs an RPN where there is none."""
    if has_policy:
        raise ConfigError("a crop policy needs the map of an RPN: give --rpn")
    if gate_threshold is not None:
        raise ConfigError("--gate-threshold is of the gate of an RPN: give --rpn")
    if confidence_threshold is not None:
        raise ConfigError("--confidence-threshold decides about a closer look: give --rpn")


def _facts(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "outcome": None if answer.outcome is None else answer.outcome.value,
        "images": [proposal_facts(proposal) for proposal in answer.proposals],
        "confidence": answer.confidence,
        "visual_tokens": answer.n_visual_tokens,
        "seconds": dict(answer.seconds),
    }


def _print(answer: Answer, files: list[Path]) -> None:
    """Print on stderr what led to the answer: the answer alone is the output."""

    def note(label: str, text: str) -> None:
        typer.echo(f"{label + ':':<15}{text}", err=True)

    if not answer.proposals:
        note("outcome", "plain answer, no region was proposed (no --rpn)")
    for number, proposal in enumerate(answer.proposals, 1):
        plan = proposal.plan
        which = f"image {number}: " if len(answer.proposals) > 1 else ""
        reason = f", plain answer: {plan.reason}" if plan.reason else ""
        note("outcome", f"{which}{plan.outcome.value}{reason}")
        if proposal.gate is not None:
            note("gate", f"{which}{proposal.gate:.3f} (probability that a region is needed)")
        for crop in plan.crops:
            note("region", f"{which}{list(crop.box)} (x0, y0, x1, y1 in pixels)")
    note("visual tokens", str(answer.n_visual_tokens))
    stages = ", ".join(f"{name} {seconds:.3f}" for name, seconds in answer.seconds.items())
    note("seconds", f"{sum(answer.seconds.values()):.3f} ({stages})")
    for path in files:
        note("overlay", str(path))


def _save(images: list[Image.Image], question: str, answer: Answer, path: Path) -> list[Path]:
    from sdrpn_core.grid.overlay import draw_overlay

    files = []
    for index, image in enumerate(images):
        proposal = answer.proposals[index] if answer.proposals else None
        outcome = "plain" if proposal is None else proposal.plan.outcome
        captions = [question, f"answer: {answer.text}", f"outcome: {outcome}"]
        if proposal is None:
            drawn = draw_overlay(image, captions=captions)
        else:
            drawn = proposal.overlay(image, captions)
        files.append(numbered(path, index, len(images)))
        save_image(drawn, files[-1])
    return files

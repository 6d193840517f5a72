"""``sdrpn roi``: where the RPN would look, without an answer."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdrpn_core.cli.image_output import (
    check_folder,
    check_image_path,
    numbered,
    save_image,
)
from sdrpn_core.cli.model_options import (
    AttnImplementation,
    Device,
    DType,
    ModelPath,
    Revision,
    load_options,
)
from sdrpn_core.cli.policy_options import PolicyName, PolicyOptions, Threshold, choose_policy
from sdrpn_core.cli.proposal_facts import proposal_facts
from sdrpn_core.cli.question_input import ImagePath, MoreImages, QuestionText, open_images
from sdrpn_core.errors import InputError
from sdrpn_core.util.atomic_files import atomic_write

if TYPE_CHECKING:
    from sdrpn_core.grid.roi_map import RoIMap

__all__ = ["roi"]

#: Shades of a map drawn with characters, from clear to peak.
_SHADES = " .:-=+*#%@"


def roi(
    image: ImagePath,
    question: QuestionText,
    model: ModelPath,
    rpn: Annotated[str, typer.Option(help="RPN: local folder or Hub ID.")],
    more_images: MoreImages = None,
    policy: PolicyName = None,
    threshold: Threshold = None,
    policy_option: PolicyOptions = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Save an image of the heatmap and the crops (.png), one per image."),
    ] = None,
    npy: Annotated[
        Path | None,
        typer.Option(
            help="Save the scores (h, w), float32, as a NumPy file (.npy), one per image."
        ),
    ] = None,
    dtype: DType = None,
    device: Device = None,
    attn_implementation: AttnImplementation = None,
    revision: Revision = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result, scores included, as JSON.")
    ] = False,
) -> None:
    """Show where the RPN would look, without answering."""
    if save is not None:
        check_image_path(save)
    if npy is not None:
        if npy.suffix != ".npy":
            raise InputError(f"{npy}: scores are saved as .npy")
        check_folder(npy)
    images = open_images(image, more_images, question)

    from sdrpn_core.answering.proposer import Proposal
    from sdrpn_core.backbone.adapter import Question
    from sdrpn_core.backbone.loading import load_backbone
    from sdrpn_core.grid.overlay import draw_overlay
    from sdrpn_core.rpn.checkpoint import read_rpn_config
    from sdrpn_core.rpn.model import RPN
    from sdrpn_core.rpn.prediction import predict_prompt_roi

    config, _ = read_rpn_config(rpn)  # before the backbone is loaded, which takes longer
    crop_policy = choose_policy(
        config.policy,
        config.policy_options,
        chosen=policy,
        threshold=threshold,
        pairs=policy_option,
    )
    backbone = load_backbone(model, **load_options(dtype, device, attn_implementation, revision))
    trained = RPN.from_pretrained(rpn, backbone=backbone)
    (prompt,) = backbone.encode([Question(question, tuple(images))])
    maps = predict_prompt_roi(backbone, [prompt], trained)
    geometries = [segment.geometry for segment in prompt.images if segment.geometry is not None]
    results = []
    for index, (found, geometry) in enumerate(zip(maps, geometries, strict=True)):
        proposal = Proposal(crop_policy.plan(found, geometry), found)
        result = {
            **proposal_facts(proposal),
            "scores": found.scores.tolist(),
            "geometry": geometry.to_dict(),
        }
        if save is not None:
            path = numbered(save, index, len(images))
            boxes = [crop.box for crop in proposal.plan.crops]
            caption = f"{result['outcome']}, peak {result['peak']:.2f}"
            drawn = draw_overlay(images[index], found, geometry, boxes, [question, caption])
            save_image(drawn, path)
            result["image"] = str(path)
        if npy is not None:
            path = numbered(npy, index, len(images))
            _save_scores(found, path)
            result["npy"] = str(path)
        results.append(result)
        if not as_json:
            _print(result, found, title=f"image {index + 1}:" if len(images) > 1 else "")
    if as_json:
        typer.echo(json.dumps({"question": question, "images": results}))


def _save_scores(roi: RoIMap, path: Path) -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, roi.scores, allow_pickle=False)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def _print(result: dict[str, Any], roi: RoIMap, title: str) -> None:
    if title:
        typer.echo(title)
    probabilities = roi.probabilities()
    low, high = float(probabilities.min()), float(probabilities.max())
    step = (high - low) / (len(_SHADES) - 1) or 1.0
    for row in probabilities.tolist():
        # Two characters a cell: about a square in a terminal.
        typer.echo("".join(2 * _SHADES[round((value - low) / step)] for value in row).rstrip())
    reason = f" ({result['reason']})" if result["reason"] else ""
    typer.echo(f"outcome: {result['outcome']}{reason}, peak {high:.3f}")
    for crop in result["crops"]:
        typer.echo(f"region: {list(crop['box'])} (x0, y0, x1, y1 in pixels)")
    for kind in ("image", "npy"):
        if kind in result:
            typer.echo(f"saved: {result[kind]}")

"""``sdrpn roi``: where the RPN would look, without an answer."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdrpn_core.cli.image_limit import MaxPixels
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
    NamedModelPath,
    Revision,
    load_options,
    load_roi_model,
)
from sdrpn_core.cli.policy_options import (
    FirstLookTokens,
    PolicyName,
    PolicyOptions,
    Threshold,
    policy_changes,
)
from sdrpn_core.cli.proposal_facts import proposal_facts
from sdrpn_core.cli.question_input import ImagePath, MoreImages, QuestionText, open_images
from sdrpn_core.data.limits import MAX_PIXELS
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
    rpn: Annotated[str, typer.Option(help="RPN: local folder or Hub ID.")],
    model: NamedModelPath = None,
    more_images: MoreImages = None,
    policy: PolicyName = None,
    threshold: Threshold = None,
    policy_option: PolicyOptions = None,
    first_look_tokens: FirstLookTokens = None,
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
    max_pixels: MaxPixels = MAX_PIXELS,
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
    changes = policy_changes(threshold, policy_option)
    images = open_images(image, more_images, question, max_pixels)
    finder = load_roi_model(
        model,
        rpn,
        policy=policy,
        policy_options=changes,
        first_look_tokens=first_look_tokens,
        **load_options(dtype, device, attn_implementation, revision),
    )
    results = []
    for index, proposal in enumerate(finder.propose(images, question)):
        found, geometry = proposal.roi, proposal.geometry
        if found is None or geometry is None:
            raise ValueError("an RPN makes no proposal without a map")
        result = {
            **proposal_facts(proposal),
            "scores": found.scores.tolist(),
            "geometry": geometry.to_dict(),
        }
        if save is not None:
            path = numbered(save, index, len(images))
            caption = f"{result['outcome']}, peak {result['peak']:.2f}"
            save_image(proposal.overlay(images[index], [question, caption]), path)
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

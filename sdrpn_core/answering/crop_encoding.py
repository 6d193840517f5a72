"""From crop plans to the visual tokens that the second pass inserts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from sdrpn_core.backbone.adapter_parts import checked_input
from sdrpn_core.backbone.prompt import ImageSegment
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.crops.policy import CropPlan, Outcome
from sdrpn_core.crops.tokens import keep_tokens, token_grid
from sdrpn_core.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.crops.policy import Crop


def encode_crops(
    backbone: Backbone, jobs: Sequence[tuple[Image.Image, CropPlan]]
) -> list[tuple[CropPlan, tuple[ImageSegment, ...]]]:
    """Cut and encode the crops of several images, in one pass of the vision encoder.

    Args:
        backbone: the model.
        jobs: images and their plans.

    Returns:
        Per image its plan and the segments of its crops. Crops that the backbone rejects, or of
        which no token is kept, are left out; a plan that loses all its crops becomes ``too_small``.
    """
    cut = [[_try_input(backbone, image, crop) for crop in plan.crops] for image, plan in jobs]
    inputs = [item for row in cut for item in row if isinstance(item, ImageInput)]
    features = iter(backbone.encode_images(inputs))
    results = []
    for (_, plan), row in zip(jobs, cut, strict=True):
        kept = []
        reason = "no token of a crop lies inside its region"
        for crop, item in zip(plan.crops, row, strict=True):
            if isinstance(item, ImageError):
                reason = f"the crop cannot be encoded: {item}"
                continue
            segment = _segment(crop, next(features), item.geometry.grid)
            if len(segment):
                kept.append((crop, segment))
        if plan.crops and not kept:
            plan = CropPlan(Outcome.TOO_SMALL, reason=reason)
        else:
            plan = replace(plan, crops=tuple(crop for crop, _ in kept))
        segments = tuple(
            replace(segment, region=crop.grid_box, rank=(index, len(kept)))
            for index, (crop, segment) in enumerate(kept)
        )
        results.append((plan, segments))
    return results


def crop_input(backbone: Backbone, image: Image.Image, crop: Crop) -> ImageInput:
    """The encoder's input for a crop, which is cut from the image as it is.

    Raises:
        ImageError: the backbone cannot encode a crop of this size or shape.
        ConfigError: the crop has a budget, and the family's resolution is fixed; or the adapter
            makes anything but an ``ImageInput`` of it.
    """
    cut = image.crop(crop.box)
    if crop.max_tokens is None:
        return checked_input(backbone.preprocess_crop(cut), "preprocess_crop", backbone.name)
    item = backbone.preprocess_native_crop(cut, crop.max_tokens)
    return checked_input(item, "preprocess_native_crop", backbone.name)


def _try_input(backbone: Backbone, image: Image.Image, crop: Crop) -> ImageInput | ImageError:
    """As :func:`crop_input`, or the reason why the backbone rejects the crop."""
    try:
        return crop_input(backbone, image, crop)
    except ImageError as error:
        return error


def _segment(crop: Crop, features: torch.Tensor, grid: tuple[int, int]) -> ImageSegment:
    if crop.max_ratio is not None:
        features, grid = _resize(features, grid, token_grid(crop, grid)), token_grid(crop, grid)
    segment = ImageSegment(features, grid)
    return segment if crop.keep is None else segment.masked(keep_tokens(crop.keep, grid))


def _resize(features: torch.Tensor, grid: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Bilinear resizing of projected features, as published (``align_corners`` off)."""
    planes = features.T.unflatten(1, grid)[None]
    resized = F.interpolate(planes, size=target, mode="bilinear", align_corners=False)
    return resized[0].flatten(1).T

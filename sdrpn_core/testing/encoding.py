"""Images through an adapter's preprocessing and encoder, as every check needs them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.testing.checks import check

#: The two methods that turn images into the encoder's input.
PREPROCESSING = ("preprocess", "preprocess_crop")


@torch.no_grad()
def encoded(
    backbone: Backbone, method: str, images: Sequence[Image.Image]
) -> list[tuple[ImageInput, torch.Tensor]]:
    """Preprocess images and encode them together.

    Args:
        backbone: the adapter.
        method: which of :data:`PREPROCESSING`.
        images: the images.

    Returns:
        Per image the encoder's input and the features ``(h * w, token_width)``.

    Raises:
        AssertionError: not one row of finite features per cell of each geometry's grid.
    """
    items: list[ImageInput] = [getattr(backbone, method)(image) for image in images]
    features = backbone.image_features(items)
    check(
        len(features) == len(items),
        f"image_features: {len(features)} tensors for {len(items)} images",
    )
    for image, item, rows in zip(images, items, features, strict=True):
        h, w = item.geometry.grid
        expected, found = (h * w, backbone.token_width), tuple(rows.shape)
        check(
            found == expected,
            f"{method}: the geometry's grid {(h, w)} asks for features of shape {expected}, but "
            f"image_features makes {found} of an image of {image.size}",
        )
        check(
            bool(torch.isfinite(rows).all()),
            f"{method}: features of an image of {image.size} are NaN or infinite",
        )
    return list(zip(items, features, strict=True))

"""What an adapter's own methods return, checked where it enters the core.

Without these checks a mistake of an adapter would surface far from it, or not at all: features that
do not go with their geometry give maps of other places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdrpn_core.backbone.prompt import ImageSegment, Prompt, Segment, TextSegment
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.errors import ConfigError

__all__ = ["checked_features", "checked_frame", "checked_input", "checked_positions"]


def checked_input(item: object, method: str, name: str) -> ImageInput:
    """What a method has made of an image, if that can be encoded.

    Args:
        item: what it has returned.
        method: which method of the adapter.
        name: of the backbone, for the message.

    Raises:
        ConfigError: it is no ``ImageInput``.
    """
    if not isinstance(item, ImageInput):
        raise ConfigError(
            f"{name}: {method} returned a {type(item).__name__}: return an "
            "ImageInput(tensors, geometry)"
        )
    return item


def checked_features(
    features: object, inputs: Sequence[ImageInput], width: int, name: str
) -> list[torch.Tensor]:
    """Features of images: per image ``(h * w, width)``, a row per cell of its geometry.

    Args:
        features: what ``image_features`` has returned.
        inputs: the images.
        width: of a row.
        name: of the backbone, for the message.

    Raises:
        ConfigError: the features are those of another number of images, of tokens or of channels.
    """
    where = f"{name}: image_features"
    if not isinstance(features, (list, tuple, torch.Tensor)):
        raise ConfigError(
            f"{where} returned a {type(features).__name__}: return a list with a tensor per image"
        )
    if len(features) != len(inputs):
        raise ConfigError(
            f"{where} gave the features of {len(features)} images for {len(inputs)}: return one "
            "tensor per image"
        )
    for rows, item in zip(features, inputs, strict=True):
        height, columns = item.geometry.grid
        if len(rows) != height * columns:
            raise ConfigError(
                f"{where} gave {len(rows)} tokens for an image whose geometry has {height} x "
                f"{columns} cells: check preprocess and image_features"
            )
        if tuple(rows.shape[1:]) != (width,):
            raise ConfigError(
                f"{where} gave features of shape {tuple(rows.shape)}: return (h * w, {width}), as "
                "wide as token_width"
            )
    return list(features)


def checked_positions(positions: torch.Tensor, prompt: Prompt, name: str) -> torch.Tensor:
    """Position ids of a prompt, ``(length,)`` or ``(axes, length)``.

    Args:
        positions: what ``positions`` has returned.
        prompt: the prompt.
        name: of the backbone, for the message.

    Raises:
        ConfigError: they are more or fewer than the tokens.
    """
    if not positions.ndim or positions.shape[-1] != len(prompt):
        raise ConfigError(
            f"{name}: positions gave the shape {tuple(positions.shape)} for a prompt of "
            f"{len(prompt)} tokens: return one position per token"
        )
    return positions


def checked_frame(parts: object, name: str) -> tuple[Segment, ...]:
    """The segments that present a crop's tokens to the decoder.

    Args:
        parts: what ``frame_crop`` has returned.
        name: of the backbone, for the message.

    Raises:
        ConfigError: they are anything but segments.
    """
    if isinstance(parts, (tuple, list)):
        if all(isinstance(part, (TextSegment, ImageSegment)) for part in parts):
            return tuple(parts)
        found = f"a list of {', '.join(dict.fromkeys(type(part).__name__ for part in parts))}"
    else:
        found = f"a {type(parts).__name__}"
    raise ConfigError(
        f"{name}: frame_crop returned {found}: return a tuple of segments, such as (crop,)"
    )

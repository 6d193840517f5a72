"""Initial weights: filters that respond to small details, and attention that can match."""

from __future__ import annotations

import math

import torch
from torch import nn

MATCHING_GAIN = 1.7
TURNING_PAIRS = 6
"""Fastest RoPE frequencies of a head, which rotate by more than half a radian per image."""
ROTATION_SEED = 0


def cosine_filters(count: int, size: int) -> torch.Tensor:
    """The ``count`` lowest two-dimensional cosine filters ``(count, size, size)``.

    Orthonormal, with the mean damped to the size of the rest. A small dot then stands out from the
    color of its patch from the first step on, which saves most of the vision stage.
    """
    place = (torch.arange(size) + 0.5) * math.pi / size
    waves = torch.cos(torch.arange(size).unsqueeze(1) * place) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    order = sorted(
        ((u, v) for u in range(size) for v in range(size)),
        key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv),
    )
    filters = torch.stack([torch.outer(waves[u], waves[v]) for u, v in order[:count]])
    filters[0] /= size
    return filters


@torch.no_grad()
def init_patch_embedding(weight: torch.Tensor) -> None:
    """Initialize a patch embedding with cosine filters on each color channel.

    Args:
        weight: ``(width, channels, size, size)``, or ``(width, channels, frames, size, size)``,
            where a still image is repeated in each frame: each frame then gets its share.
    """
    width, channels, size = weight.shape[0], weight.shape[1], weight.shape[-1]
    frames = weight.shape[2] if weight.ndim == 5 else 1
    filters = cosine_filters(min(width // channels, size * size), size)
    shared = weight.reshape(width, channels, frames, size, size)
    shared.zero_()
    for channel in range(channels):
        rows = slice(channel * len(filters), (channel + 1) * len(filters))
        shared[rows, channel] = filters[:, None] / frames
    weight.copy_(shared.reshape(weight.shape))


def word_rotation(width: int) -> torch.Tensor:
    """A fixed rotation (width, width): a word then matches other tokens rather than itself."""
    generator = torch.Generator().manual_seed(ROTATION_SEED)
    return torch.linalg.qr(torch.randn(width, width, generator=generator))[0]


@torch.no_grad()
def init_matching_attention(layers: nn.ModuleList, width: int, head_dim: int) -> None:
    """Initialize each head so that attention goes by content, wherever a token stands.

    Keys are orthonormal projections, on those dimensions that RoPE hardly rotates across an image;
    queries are the same projections of rotated states. So a word can learn to match the patches
    that show it without having to find such dimensions first.
    """
    rotation = word_rotation(width)
    steady = (torch.arange(head_dim) % (head_dim // 2) >= TURNING_PAIRS).unsqueeze(1)
    for layer in layers:
        key_weight = layer.get_parameter("self_attn.k_proj.weight")
        keys = torch.empty_like(key_weight)
        nn.init.orthogonal_(keys, gain=MATCHING_GAIN)
        keys *= steady.repeat(len(keys) // head_dim, 1)
        key_weight.add_(keys)
        layer.get_parameter("self_attn.q_proj.weight").add_(keys @ rotation)

"""ViCrop's three maps, for a batch of questions whose prefixes have run.

All are read at the last token of the prompt, which predicts the first token of the response. The
published code runs each prompt from its beginning, with eager attention. Here the two maps of
attention start at the cached prefix and work under any implementation; the values are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import median_filter
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from sdrpn_core.backbone.prompt import ImageSegment
from sdrpn_core.backbone.question import ImageInput
from sdrpn_core.grid.geometry import ResizedWithBreaks
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.runtime.logits import block_logits
from sdrpn_core.taps.attention_tap import AttentionTap
from sdrpn_core.taps.feature_tap import FeatureTap

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.backbone.prompt import Prompt

Map = npt.NDArray[np.float32]
"""``(h, w)`` of one image."""

#: Name of the encoder's input that pure gradients are taken by.
PIXELS = "pixel_values"

_BLUR_SIDE = 3
_MEDIAN_SIDE = 7
"""Kernels of the high-pass filter in pixels of the model's input (published)."""


@torch.no_grad()
def relative_attention(state: Prefill, layer: int, generic: str) -> list[list[Map]]:
    """Attention to the image under the question, divided by that under a generic prompt.

    Args:
        state: the questions.
        layer: whose heads are averaged.
        generic: a prompt that any part of the image may answer.

    Returns:
        Per question one map per image.
    """
    specific = _last_rows(state, state.prompts, layer)
    general = _last_rows(state, _asking(state, generic), layer)
    return [
        [_ratio(one, other) for one, other in zip(row, base, strict=True)]
        for row, base in zip(specific, general, strict=True)
    ]


def gradient_attention(state: Prefill, layer: int) -> list[list[Map]]:
    """Attention to the image, times the positive part of its gradient, averaged over heads.

    The gradient is that of the log-likelihood of the most likely next token.

    Args:
        state: the questions.
        layer: whose attention it is.

    Returns:
        Per question one map per image.
    """
    rest = state.rest()
    with torch.enable_grad(), _last_row_tap(state, rest.length, layer, differentiable=True) as tap:
        logits = block_logits(state.backbone, rest, state.prefix, state.cache(), keep=1)
        gradients = tap.gradients(_certainty(logits))
    rows = tap.weights(layer) * gradients.relu()
    return _split(state.prompts, rows.mean(dim=1)[:, 0])


def pure_gradient(state: Prefill, generic: str) -> list[list[Map]]:
    """The gradient at the pixels, relative to that under a generic prompt, where there is detail.

    Everything runs again, the vision encoder included, and backward as well.

    Args:
        state: the questions.
        generic: see :func:`relative_attention`.

    Returns:
        Per question one map per image.
    """
    backbone = state.backbone
    inputs = [item for question in state.questions for item in backbone.image_inputs(question)]
    specific = _pixel_gradients(backbone, state.prompts, inputs)
    general = _pixel_gradients(backbone, _asking(state, generic), inputs)
    maps = iter(
        _detailed(backbone, _ratio(one, other), item)
        for one, other, item in zip(specific, general, inputs, strict=True)
    )
    return [[next(maps) for _ in prompt.images] for prompt in state.prompts]


def _asking(state: Prefill, text: str) -> list[Prompt]:
    """The same images, and another question about all of them."""
    return [state.prompt_asking(index, text) for index in range(len(state.prompts))]


def _last_row_tap(
    state: Prefill, n_behind: int, layer: int, *, differentiable: bool = False
) -> AttentionTap:
    """A tap on the last row of a batch behind the prefixes, and the columns of the images."""
    n_keys = max(prompt.n_visual_tokens for prompt in state.prompts)
    keys = torch.zeros(len(state.prompts), n_keys, dtype=torch.long)
    for row, columns in enumerate(_columns(state)):
        keys[row, : len(columns)] = torch.tensor(columns)
    last = state.prefix.length + n_behind - 1
    return AttentionTap(
        state.backbone.decoder,
        {layer: None},
        queries=slice(last, last + 1),
        keys=keys,
        differentiable=differentiable,
    )


def _columns(state: Prefill) -> Iterator[list[int]]:
    for prompt, offset in zip(state.prompts, state.prefix.starts, strict=True):
        yield [offset + i for start, stop in prompt.image_spans for i in range(start, stop)]


def _last_rows(state: Prefill, prompts: Sequence[Prompt], layer: int) -> list[list[Map]]:
    """Attention of the last tokens, averaged over heads; no layer above runs."""
    backbone = state.backbone
    rest = prompt_block(backbone, prompts, starts=[len(prefix) for prefix in state.prefixes])
    n_layers = layer + 1
    with _last_row_tap(state, rest.length, layer) as tap:
        inputs = rest.model_inputs(state.cache(n_layers), prefix=state.prefix)
        if n_layers < len(backbone.layers):
            with FeatureTap(backbone.decoder, n_layers) as stop:
                stop.run(**inputs)
        else:
            backbone.decoder(**inputs)
    return _split(prompts, tap.weights(layer).mean(dim=1)[:, 0])


def _split(prompts: Sequence[Prompt], rows: torch.Tensor) -> list[list[Map]]:
    """Rows ``(batch, visual tokens)`` as maps."""
    found = []
    for prompt, row in zip(prompts, rows.float().cpu().numpy(), strict=True):
        maps, start = [], 0
        for image in prompt.images:
            maps.append(row[start : start + len(image)].reshape(image.grid))
            start += len(image)
        found.append(maps)
    return found


def _certainty(logits: torch.Tensor) -> torch.Tensor:
    """Sum over a batch of the log-likelihood of each one's most likely next token."""
    return logits[:, -1].float().log_softmax(dim=-1).amax(dim=-1).sum()


def _ratio(
    values: npt.NDArray[np.float32], base: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Quotients; 0 where nothing is divided by."""
    return np.divide(values, base, out=np.zeros_like(values), where=base > 0)


def _pixel_gradients(
    backbone: Backbone, prompts: Sequence[Prompt], inputs: Sequence[ImageInput]
) -> list[npt.NDArray[np.float32]]:
    """Per image the norms ``(height, width)`` of the gradients at its pixels, over channels."""
    with torch.enable_grad():
        leaves = [item.tensors[PIXELS].detach().requires_grad_() for item in inputs]
        features = iter(
            backbone.image_features(
                [
                    ImageInput({**item.tensors, PIXELS: leaf}, item.geometry)
                    for item, leaf in zip(inputs, leaves, strict=True)
                ]
            )
        )
        block = prompt_block(backbone, [_with_features(prompt, features) for prompt in prompts])
        certainty = _certainty(block_logits(backbone, block, keep=1))
        gradients = torch.autograd.grad(certainty, leaves)
    planes = (
        backbone.pixel_plane(gradient, item.geometry.grid)
        for gradient, item in zip(gradients, inputs, strict=True)
    )
    return [plane.float().norm(dim=0).cpu().numpy() for plane in planes]


def _with_features(prompt: Prompt, features: Iterator[torch.Tensor]) -> Prompt:
    return replace(
        prompt,
        segments=tuple(
            replace(segment, features=next(features))
            if isinstance(segment, ImageSegment)
            else segment
            for segment in prompt.segments
        ),
    )


def _detailed(backbone: Backbone, values: npt.NDArray[np.float32], item: ImageInput) -> Map:
    """Values of pixels with detail, averaged within each cell."""
    plane = backbone.pixel_plane(item.tensors[PIXELS], item.geometry.grid).float().cpu()
    processor = backbone.processor.image_processor
    if processor.do_normalize:
        plane = plane * torch.tensor(processor.image_std)[:, None, None]
    masked = torch.from_numpy(values * has_detail(plane))
    rows, columns = item.geometry.grid
    n_breaks = int(isinstance(item.geometry, ResizedWithBreaks))
    cells = F.adaptive_avg_pool2d(masked[None], (rows, columns - n_breaks))[0]
    found: Map = F.pad(cells, (0, n_breaks)).numpy()
    return found


def has_detail(plane: torch.Tensor) -> npt.NDArray[np.bool_]:
    """``(height, width)``: where an image changes more than at half of its pixels.

    Args:
        plane: ``(3, height, width)``, intensities from 0 to 1, up to a constant.
    """
    high = plane - vision.gaussian_blur(plane, [_BLUR_SIDE, _BLUR_SIDE])
    strength = median_filter(high.norm(dim=0).numpy(), size=_MEDIAN_SIDE)
    found: npt.NDArray[np.bool_] = strength > np.median(strength)
    return found

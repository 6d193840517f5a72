"""ViCrop as benchmark methods: one window by one of three maps, then the two-stage answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from sdrpn_bench.input_side import input_side
from sdrpn_bench.method import Method, MethodContext
from sdrpn_core.answering.proposer import Proposal, Proposer
from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.roi_map import RoIMap
from sdrpn_vicrop.maps import PIXELS, Map, gradient_attention, pure_gradient, relative_attention
from sdrpn_vicrop.window import WindowPolicy

if TYPE_CHECKING:
    from sdrpn_core.answering.prefill import Prefill
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.data.record import Record
    from sdrpn_core.grid.geometry import Geometry

#: What is asked for comparison: any part of an image may answer it.
GENERIC = "Describe the image as a whole. Answer the question using a single word or phrase."

#: Side of the smallest window for models of dynamic resolution (published for Qwen2.5-VL).
DYNAMIC_SIDE = 224

#: How deep the published layer lies: 14 of 32 (LLaVA-1.5-7B).
LAYER_SHARE = 14 / 32

#: Width and height of an image that shows how an adapter lays out its pixels.
_PROBE = (64, 48)

ReadMaps = Callable[["Prefill"], list[list[Map]]]


@dataclass(frozen=True)
class _ViCrop(Method, ABC):
    """What the three variants share.

    Attributes:
        side: of the smallest window in source pixels. Default: the side of the model's input, but
            at most 224 for models of dynamic resolution.
    """

    side: int | None = None

    def proposer(self, context: MethodContext, records: Sequence[Record]) -> Proposer:
        """Propose one window per image."""
        return WindowProposer(self.reader(context), self.side)

    @abstractmethod
    def reader(self, context: MethodContext) -> ReadMaps:
        """What reads the maps of a batch."""


@dataclass(frozen=True)
class ViCrop(_ViCrop):
    """Attention under the question, relative to that under a generic prompt (``rel_att``).

    Attributes:
        layer: whose attention is read. Default: the deepest that the label recipe reads, because it
            is known to ground (14 in LLaVA-1.5-7B, as published); without a recipe as deep as
            published. The published layer for Qwen2.5-VL-7B is 22.
        generic: the generic prompt.
    """

    layer: int | None = None
    generic: str = GENERIC

    def reader(self, context: MethodContext) -> ReadMaps:
        """Relative attention: two short passes behind the image, up to the layer."""
        layer = chosen_layer(context, self.layer)
        return partial(relative_attention, layer=layer, generic=self.generic)


@dataclass(frozen=True)
class ViCropGradientAttention(_ViCrop):
    """Attention times its gradient (``grad_att``).

    Attributes:
        layer: as of :class:`ViCrop`.
    """

    layer: int | None = None

    def reader(self, context: MethodContext) -> ReadMaps:
        """Gradient-weighted attention: a pass behind the image, and backward to the layer."""
        return partial(gradient_attention, layer=chosen_layer(context, self.layer))


@dataclass(frozen=True)
class ViCropPureGradient(_ViCrop):
    """The gradient at the image's pixels, relative to that of a generic prompt (``pure_grad``).

    Attributes:
        generic: the generic prompt.
    """

    generic: str = GENERIC

    def unserved(self, context: MethodContext) -> str | None:
        """Why the pixels of an image cannot be told apart; ``None`` if they can."""
        item = context.backbone.preprocess(Image.new("RGB", _PROBE))
        if PIXELS not in item.tensors:
            return f"the family's encoder takes no {PIXELS}"
        try:
            context.backbone.pixel_plane(item.tensors[PIXELS], item.geometry.grid)
        except ConfigError as error:
            return str(error)
        return None

    def reader(self, context: MethodContext) -> ReadMaps:
        """Pure gradients: two whole passes, forward and backward."""
        return partial(pure_gradient, generic=self.generic)


class WindowProposer(Proposer):
    """Crops one window of each image.

    Args:
        read_maps: per question one map per image.
        side: of the smallest window in source pixels; ``None``: that of the model's input.
    """

    def __init__(self, read_maps: ReadMaps, side: int | None) -> None:
        self.read_maps = read_maps
        self.side = side

    def propose(self, state: Prefill) -> list[list[Proposal]]:
        """Read the maps of all images, and search each for a window."""
        found: dict[int, list[Proposal]] = {}
        for indices, part in state.parts():
            for index, prompt, maps in zip(
                indices, part.prompts, self.read_maps(part), strict=True
            ):
                found[index] = [
                    self._proposal(state.backbone, RoIMap(one, "distribution"), geometry)
                    for one, geometry in zip(maps, prompt.geometries, strict=True)
                ]
        return [found[index] for index in range(len(state.prompts))]

    def _proposal(self, backbone: Backbone, roi: RoIMap, geometry: Geometry) -> Proposal:
        policy = WindowPolicy(self.side or input_side(backbone, geometry, DYNAMIC_SIDE))
        return Proposal(policy.plan(roi, geometry), roi)


def chosen_layer(context: MethodContext, layer: int | None) -> int:
    """The layer whose attention is read.

    Raises:
        ConfigError: there is no such layer.
    """
    n_layers = context.backbone.n_layers
    if layer is None:
        preset = context.backbone.find_preset()
        known = context.rpn is not None and context.rpn.config.recipe is not None
        if known or (preset is not None and preset.recipes):
            return max(context.recipe.grounding)
        return round(LAYER_SHARE * n_layers)
    if not 0 <= layer < n_layers:
        raise ConfigError(f"layer {layer} does not exist: the decoder has 0 to {n_layers - 1}")
    return layer

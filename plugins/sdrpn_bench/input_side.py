"""The side of a model's input in pixels, which methods measure crops by."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.geometry import Letterboxed, PaddedSquare, Resized

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone
    from sdrpn_core.grid.geometry import Geometry


def input_side(backbone: Backbone, geometry: Geometry, dynamic_side: int) -> int:
    """The side of the model's square input; of dynamic resolutions that of an equal square.

    Args:
        backbone: the model.
        geometry: of an image.
        dynamic_side: limit for models of dynamic resolution, whose input may be the whole image.

    Raises:
        ConfigError: the geometry does not tell.
    """
    if isinstance(geometry, (PaddedSquare, Letterboxed)):
        return geometry.side
    if not isinstance(geometry, Resized):
        raise ConfigError(
            f"the side of an input of {backbone.name} cannot be told from its geometry: give the "
            "option 'side'"
        )
    rows, columns = geometry.grid
    side = round(geometry.cell * sqrt(rows * columns))
    return min(side, dynamic_side) if backbone.dynamic_resolution else side

"""The geometry: which source pixels a visual token sees.

A wrong geometry fails silently: boxes come out plausible, and somewhere else. So a part of the
image is repainted, and the token that moves most must be the one whose cell it lies in.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from sdrpn_core.backbone.adapter import Backbone
from sdrpn_core.errors import ConfigError
from sdrpn_core.grid.geometry import Box, Geometry, ResizedWithBreaks
from sdrpn_core.testing.checks import check
from sdrpn_core.testing.encoding import PREPROCESSING, encoded
from sdrpn_core.testing.images import block_image, repainted
from sdrpn_core.testing.subject import ContractSubject

_PIXELS = "pixel_values"
#: Moves are summed over so many images: attention to one image's colors evens out.
_N_IMAGES = 4
#: A cell with a smaller share of the largest cell's source pixels lies mostly in the padding.
_MIN_VISIBLE = 0.5


class GeometryChecks(ContractSubject):
    """The geometry covers the image, and visual tokens move where it says."""

    def test_the_geometry_covers_the_image(self, backbone: Backbone, size: tuple[int, int]) -> None:
        """The whole grid is the whole image; as plain data it stays the same."""
        for name in PREPROCESSING:
            ((item, _),) = encoded(backbone, name, [block_image(0, size)])
            geometry = item.geometry
            h, w = geometry.grid
            whole = geometry.to_source([[0, 0, w, h]])[0].tolist()
            check(
                whole == [0, 0, *size],
                f"{name}: the grid of {h}x{w} cells covers the source box {whole} of an image of "
                f"{size}, not all of it",
            )
            check(bool(geometry.content().any()), f"{name}: no cell shows any of the image")
            check(
                Geometry.from_dict(geometry.to_dict()) == geometry,
                f"{name}: the geometry does not survive to_dict and from_dict: its fields must be "
                "plain JSON values",
            )

    def test_tokens_move_where_the_geometry_says(
        self, backbone: Backbone, size: tuple[int, int]
    ) -> None:
        """Of whole images, on cells in the corners and in the middle."""
        _check_moves(backbone, "preprocess", size)

    def test_tokens_of_a_crop_move_where_its_geometry_says(
        self, backbone: Backbone, size: tuple[int, int]
    ) -> None:
        """The same for what ``preprocess_crop`` makes of a crop."""
        _check_moves(backbone, "preprocess_crop", size)

    def test_a_plane_of_pixels_lies_where_the_geometry_says(
        self, backbone: Backbone, size: tuple[int, int]
    ) -> None:
        """What ``pixel_plane`` makes of the encoder's input changes in the cell that is repainted.

        An adapter need not offer it: methods that need it are then left out.
        """
        image = block_image(0, size)
        item = backbone.preprocess(image)
        if _PIXELS not in item.tensors:
            return
        try:
            before = backbone.pixel_plane(item.tensors[_PIXELS], item.geometry.grid)
        except ConfigError:
            return
        geometry = item.geometry
        rows, columns = geometry.grid
        columns -= isinstance(geometry, ResizedWithBreaks)  # tokens that show no part of the image
        check(
            before.ndim == 3 and before.shape[1] >= rows and before.shape[2] >= columns,
            f"pixel_plane: made {tuple(before.shape)} of an image of {size}, not (channels, "
            f"height, width) with a grid of {rows}x{columns} cells",
        )
        for cell, box in _paints(geometry):
            changed = backbone.preprocess(repainted(image, box)).tensors[_PIXELS]
            moves = (backbone.pixel_plane(changed, geometry.grid) - before).abs().float().sum(0)
            cells = F.adaptive_avg_pool2d(moves[None], (rows, columns))[0]
            strongest = divmod(int(cells.argmax()), columns)
            check(
                strongest == cell,
                f"pixel_plane: repainting the source pixels {box} of cell (row, column) {cell} "
                f"changes the plane most in cell {strongest}",
            )


def _check_moves(backbone: Backbone, method: str, size: tuple[int, int]) -> None:
    ((item, _),) = encoded(backbone, method, [block_image(0, size)])
    geometry = item.geometry
    paints = list(_paints(geometry))
    moves = torch.zeros(len(paints), geometry.grid[0] * geometry.grid[1])
    for seed in range(_N_IMAGES):
        image = block_image(seed, size)
        changed = [repainted(image, box) for _, box in paints]
        before, *after = (rows for _, rows in encoded(backbone, method, [image, *changed]))
        moves += torch.stack([(one - before).norm(dim=-1) for one in after]).float().cpu()
    for (cell, box), moved in zip(paints, moves, strict=True):
        strongest = divmod(int(moved.argmax()), geometry.grid[1])
        check(
            strongest == cell,
            f"{method}: the geometry {geometry} says that source pixels {box} lie in "
            f"cell (row, column) {cell}, but repainting them moves the token of cell {strongest} "
            "most: the geometry is not what happens to the image, or image_features returns "
            "tokens that are not row-major",
        )


def _paints(geometry: Geometry) -> Iterator[tuple[tuple[int, int], Box]]:
    """Cells (row, column) near the corners and in the middle, with each quarter of their pixels.

    Quarters tell a geometry that is off by as little as half a cell from the true one.
    """
    h, w = geometry.grid
    boxes = {
        (row, column): geometry.to_source([[column, row, column + 1, row + 1]])[0]
        for row in range(h)
        for column in range(w)
    }
    area = {cell: int(np.prod(box[2:] - box[:2])) for cell, box in boxes.items()}
    visible = [cell for cell in boxes if area[cell] >= _MIN_VISIBLE * max(area.values())]
    falling = sorted(visible, key=sum)
    rising = sorted(visible, key=lambda cell: cell[0] - cell[1])
    chosen = (falling[0], falling[-1], rising[0], rising[-1], visible[len(visible) // 2])
    for cell in dict.fromkeys(chosen):
        x0, y0, x1, y1 = (int(side) for side in boxes[cell])
        x, y = (x0 + x1) // 2, (y0 + y1) // 2
        for box in ((x0, y0, x, y), (x, y0, x1, y), (x0, y, x, y1), (x, y, x1, y1)):
            yield cell, box

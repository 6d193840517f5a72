"""The grid of visual tokens at which an image is neither enlarged nor loses a pixel."""

from __future__ import annotations

from math import ceil, floor, sqrt


def native_grid(
    size: tuple[int, int], cell: int, most: int, *, least: int = 1, breaks: int = 0
) -> tuple[int, int]:
    """The smallest grid that keeps every pixel of an image, within limits.

    Args:
        size: (width, height) of the image in pixels.
        cell: side of a visual token, in pixels of the image as the encoder gets it.
        most: largest number of tokens. Larger grids are reduced, the image's shape kept; an image
            so narrow that this is not possible is compressed along its longer side.
        least: a grid with fewer tokens (row breaks aside) is enlarged, the image's shape kept. This
            comes before ``most``, as in the processors of the families.
        breaks: tokens behind every row that show nothing of the image.

    Returns:
        ``(rows, columns)`` of the tokens that show the image, both at least 1.
    """
    width, height = size
    natural_rows, natural_columns = height / cell, width / cell
    rows, columns = ceil(natural_rows), ceil(natural_columns)
    if rows * (columns + breaks) > most:
        scale = _scale_within(natural_rows, natural_columns, most, breaks)
        rows = min(max(1, floor(natural_rows * scale)), max(1, most // (1 + breaks)))
        columns = min(max(1, floor(natural_columns * scale)), max(1, most // rows - breaks))
    if rows * columns < least:
        scale = sqrt(least / (natural_rows * natural_columns))
        rows, columns = ceil(natural_rows * scale), ceil(natural_columns * scale)
    return rows, columns


def _scale_within(rows: float, columns: float, most: int, breaks: int) -> float:
    """The factor at which ``rows * (columns + breaks)`` is ``most``."""
    linear = rows * breaks
    return (sqrt(linear**2 + 4 * rows * columns * most) - linear) / (2 * rows * columns)

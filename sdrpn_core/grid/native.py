"""The grid of visual tokens at which an image is neither enlarged nor loses a pixel."""

from __future__ import annotations

from math import ceil, floor, log, sqrt


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
            comes before ``most``, as in the processors of the families. Where both sides rounded up
            would exceed ``most``, the grid of the nearest shape that does not is taken.
        breaks: tokens behind every row that show nothing of the image.

    Returns:
        ``(rows, columns)`` of the tokens that show the image, both at least 1.
    """
    width, height = size
    natural_rows, natural_columns = height / cell, width / cell
    rows, columns = full = ceil(natural_rows), ceil(natural_columns)
    if rows * (columns + breaks) > most:
        shrink = _reduction(size, cell, most, breaks)
        # Below 1 where only the pixels' share of their outermost tokens fits: nothing is enlarged.
        rows, columns = (
            min(max(1, floor(side / shrink / cell)), limit)
            for side, limit in zip((height, width), full, strict=True)
        )
        rows = min(rows, max(1, most // (1 + breaks)))
        columns = min(columns, max(1, most // rows - breaks))
    if rows * columns < least:
        scale = sqrt(least / (natural_rows * natural_columns))
        ideal = natural_rows * scale, natural_columns * scale
        rows, columns = map(ceil, ideal)
        # A single row has the fewest breaks.
        allowed = max(most, least + breaks)
        if rows * (columns + breaks) > allowed:
            return _nearest(ideal, least, allowed, breaks)
    return rows, columns


def _nearest(ideal: tuple[float, float], least: int, most: int, breaks: int) -> tuple[int, int]:
    """Of all grids within both limits, the one whose sides are stretched least from ideal ones."""

    def stretch(grid: tuple[int, int]) -> float:
        return sum(log(side / best) ** 2 for side, best in zip(grid, ideal, strict=True))

    return min(
        (
            (rows, columns)
            for rows in range(1, most // (1 + breaks) + 1)
            for columns in range(ceil(least / rows), most // rows - breaks + 1)
        ),
        key=stretch,
    )


def _reduction(size: tuple[int, int], cell: int, most: int, breaks: int) -> float:
    """How many times smaller both sides are where ``rows * (columns + breaks)`` is ``most``."""
    width, height = size
    if not breaks:
        # In the steps of the processors: where a side comes to whole tokens, rounding decides.
        return sqrt(height * width / (most * cell**2))
    rows, columns = height / cell, width / cell
    linear = rows * breaks
    return 2 * rows * columns / (sqrt(linear**2 + 4 * rows * columns * most) - linear)

"""The tree of crops: every node is a box, its children are its four parts."""

from __future__ import annotations

from dataclasses import dataclass

from sdrpn_core.grid.geometry import Box

#: A box that is so many times as long as wide is cut into strips, not into quarters (published).
_LONG = 2

N_PARTS = 4
"""Children of a node: one with fewer pixels along a strip would never end."""


@dataclass(frozen=True)
class Node:
    """A part of the image.

    Attributes:
        box: in source pixels.
        depth: 0 for the whole image.
    """

    box: Box
    depth: int = 0

    @property
    def is_root(self) -> bool:
        """Whether it is the whole image."""
        return self.depth == 0


@dataclass(frozen=True)
class CropTree:
    """The parts of an image, down to those that the model sees at full resolution.

    Attributes:
        size: (width, height) of the image.
        side: of the model's input in pixels: what is shorter on both sides has no children; at
            least ``N_PARTS``.
    """

    size: tuple[int, int]
    side: int

    @property
    def root(self) -> Node:
        """The whole image."""
        return Node((0, 0, *self.size))

    @property
    def depth(self) -> int:
        """Of the deepest node."""
        depth, shapes = 0, {self.size}
        while True:
            # Where a part lies does not matter, and few differ in size: the rest of a division.
            nodes = [Node((0, 0, *shape)) for shape in shapes]
            boxes = [part.box for node in nodes for part in self.children(node)]
            if not boxes:
                return depth
            depth, shapes = depth + 1, {(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes}

    def children(self, node: Node) -> tuple[Node, ...]:
        """The four parts, row by row, which cover the node; none where it is small."""
        x0, y0, x1, y1 = node.box
        if max(x1 - x0, y1 - y0) < self.side:
            return ()
        columns = _cuts(x0, x1, self._grid(node)[0])
        rows = _cuts(y0, y1, self._grid(node)[1])
        return tuple(
            Node((left, top, right, bottom), node.depth + 1)
            for top, bottom in rows
            for left, right in columns
        )

    def view(self, node: Node, scale: float) -> Box:
        """What is cropped to show a node: enlarged, at least as wide as the model's input.

        Args:
            node: the part.
            scale: how much wider than the part or the input, around its center.
        """
        x0, y0, x1, y1 = node.box
        bounds = []
        for low, high, length in ((x0, x1, self.size[0]), (y0, y1, self.size[1])):
            wanted = int(max(high - low, self.side) * scale)
            start = max(0, (low + high) // 2 - wanted // 2)
            bounds.append((start, min(start + wanted, length)))
        (left, right), (top, bottom) = bounds
        return left, top, right, bottom

    @staticmethod
    def _grid(node: Node) -> tuple[int, int]:
        """Columns and rows of the parts."""
        x0, y0, x1, y1 = node.box
        width, height = x1 - x0, y1 - y0
        if height >= _LONG * width:
            return 1, N_PARTS
        return (N_PARTS, 1) if width >= _LONG * height else (2, 2)


def _cuts(low: int, high: int, n: int) -> list[tuple[int, int]]:
    """``n`` equal intervals of whole pixels; the last one takes the rest."""
    step = (high - low) // n
    starts = [low + step * index for index in range(n)]
    return list(zip(starts, [*starts[1:], high], strict=True))

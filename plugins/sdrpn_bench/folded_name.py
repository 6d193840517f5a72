"""Names of methods in a narrow column: broken between their parts, not within a word."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.measure import Measurement
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["FoldedName"]

#: Before a bracket: what is in it stays together where it can.
_PIECES = re.compile(r"(?=[\[(])")

#: Before a bracket or a value, and behind what separates words.
_BREAKS = re.compile(r"(?=[\[(]|(?<!\s)=)|(?<=[_,/:])")


class FoldedName:
    """A name that takes more lines where it has to, such as ``sdrpn``, ``[threshold=0.05]``.

    Args:
        name: the name.
        indent: spaces before every line.
    """

    def __init__(self, name: str, indent: int = 0) -> None:
        self._pieces = [_parts(piece) for piece in _PIECES.split(name) if piece]
        self._indent = indent

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """From the longest part to the whole name."""
        lengths = [len(part) for parts in self._pieces for part in parts]
        return Measurement(max(lengths, default=0) + self._indent, sum(lengths) + self._indent)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As much on a line as fits; a part that fits on none is folded."""
        width = max(1, options.max_width - self._indent)
        lines = [""]
        for parts in self._pieces:
            if lines[-1] and len(lines[-1]) + sum(map(len, parts)) > width:
                lines.append("")
            for part in parts:
                if lines[-1] and len(lines[-1]) + len(part) > width:
                    lines.append("")
                lines[-1] += part
        for line in lines:
            for start in range(0, len(line), width):
                yield Text(" " * self._indent + line[start : start + width])


def _parts(piece: str) -> list[str]:
    return [part for part in _BREAKS.split(piece) if part]

"""Batches of sequences of similar length, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsFloat, TypeAlias

from sdrpn_core.errors import ConfigError

Lengths: TypeAlias = tuple[int, ...]
"""Tokens of a sequence, block by block; a batch pads each block to its longest row."""

#: Largest share of a batch that may be padding. Splitting a batch costs another pass over all
#: weights for every generated token, so a little padding is cheaper. A prompt next to one with a
#: crop as large as the image is a quarter padding: these two are split.
DEFAULT_MAX_PADDING = 0.2


def check_max_padding(max_padding: object) -> None:
    """Check a limit of padding.

    Raises:
        ConfigError: the limit is no number, below 0, or 1 or more.
    """
    if not isinstance(max_padding, SupportsFloat) or not 0 <= float(max_padding) < 1:
        raise ConfigError(f"max_padding must be at least 0 and less than 1, not {max_padding!r}")


def padding(lengths: Sequence[Lengths]) -> float:
    """The share of a batch that is padding, 0 to 1."""
    longest = [max(block) for block in zip(*lengths, strict=True)]
    total = len(lengths) * sum(longest)
    return 1 - sum(map(sum, lengths)) / total if total else 0.0


def nearest(
    lengths: Sequence[Lengths],
    size: int,
    max_padding: float,
    *,
    first: int = 0,
    holes: bool = True,
) -> list[int]:
    """Choose a batch around one sequence: those closest to it in length, as many as fit.

    Args:
        lengths: of the sequences to choose from.
        size: largest number of sequences in a batch.
        max_padding: largest share of the batch that may be padding.
        first: index of the sequence that the batch must contain.
        holes: whether padding may lie between two blocks of a row, and not just before the first.

    Returns:
        Indices, ascending; ``first`` is among them.
    """

    def distance(index: int) -> tuple[int, int]:
        pairs = zip(lengths[index], lengths[first], strict=True)
        return sum(abs(one - other) for one, other in pairs), index

    chosen = [first]
    for index in sorted(range(len(lengths)), key=distance):
        if len(chosen) == size:
            break
        if index == first or not (holes or lengths[index][1:] == lengths[first][1:]):
            continue
        if padding([lengths[i] for i in [*chosen, index]]) <= max_padding:
            chosen.append(index)
    return sorted(chosen)


def buckets(
    lengths: Sequence[Lengths], size: int, max_padding: float, *, holes: bool = True
) -> list[list[int]]:
    """Split all sequences into batches of at most ``size``, none with more padding than allowed.

    Args:
        lengths: of the sequences.
        size: most sequences of a batch.
        max_padding: largest share of padding.
        holes: as of :func:`nearest`.

    Returns:
        Indices; each occurs once. A batch that fits stays whole and in order.
    """
    left = list(range(len(lengths)))
    batches = []
    while left:
        # The longest first: if memory does not suffice, that shows at once.
        longest = max(range(len(left)), key=lambda place: sum(lengths[left[place]]))
        rest = [lengths[i] for i in left]
        places = nearest(rest, size, max_padding, first=longest, holes=holes)
        batches.append([left[place] for place in places])
        taken = set(places)
        left = [index for place, index in enumerate(left) if place not in taken]
    return batches

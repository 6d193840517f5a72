"""KV caches: handed to stock models, split into single sequences, and joined into other batches.

A cache grows by concatenation and never writes into the tensors that it holds, so that those of one
sequence can be part of any number of caches at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import transformers
from packaging.version import Version
from transformers import DynamicCache

if TYPE_CHECKING:
    from transformers import Cache

#: transformers 5.24 renamed the argument everywhere, and warns about the older name.
_RENAMED_IN = Version("5.24")

#: Name of the cache in the arguments and outputs of models, decoders, layers and ``generate()``.
CACHE_NAME = "cache" if Version(transformers.__version__) >= _RENAMED_IN else "past_key_values"

SequenceKV: TypeAlias = Mapping[int, tuple[torch.Tensor, torch.Tensor]]
"""``{layer: (keys, values)}``, each ``(heads, length, head_dim)``, of one sequence, unpadded."""


def cache_argument(cache: Cache | None) -> dict[str, Any]:
    """The cache as a keyword argument of a stock model."""
    return {CACHE_NAME: cache}


def split_cache(cache: Cache, starts: Sequence[int]) -> list[SequenceKV]:
    """The rows of a left-padded cache.

    Args:
        cache: of a batch, all layers that were used of one length.
        starts: per row the column of its first token.
    """
    layers: list[Any] = list(cache.layers)
    used = {index: layer for index, layer in enumerate(layers) if layer.is_initialized}
    return [
        {
            index: (unpadded(layer.keys, row, start), unpadded(layer.values, row, start))
            for index, layer in used.items()
        }
        for row, start in enumerate(starts)
    ]


def unpadded(batch: torch.Tensor, row: int, start: int) -> torch.Tensor:
    """``batch[row, ..., start:, :]``: a copy, unless the row is all there is.

    A view would keep the whole batch in memory for as long as any of its rows lives.
    """
    part = batch[row, ..., start:, :]
    return part if len(batch) == 1 and not start else part.clone()


def join_cache(
    rows: Sequence[SequenceKV], lengths: Sequence[int] | None = None, n_layers: int | None = None
) -> DynamicCache:
    """A left-padded cache of several rows; these stay as they are when it grows.

    Args:
        rows: a batch; the same row may occur several times.
        lengths: how many of each row's first tokens are wanted; default: all.
        n_layers: how many of the first layers are wanted; default: all.
    """
    cache = DynamicCache()
    for index in rows[0]:
        if n_layers is not None and index >= n_layers:
            continue
        keys, values = (
            left_padded(_first(parts, lengths))
            for parts in zip(*(row[index] for row in rows), strict=True)
        )
        # Handed over as it is: update() would copy it behind an empty tensor.
        cache.update(keys[..., :0, :], values[..., :0, :], index)
        layer: Any = cache.layers[index]
        layer.keys, layer.values = keys, values
    return cache


def _first(parts: Sequence[torch.Tensor], lengths: Sequence[int] | None) -> Sequence[torch.Tensor]:
    if lengths is None:
        return parts
    return [part[..., :length, :] for part, length in zip(parts, lengths, strict=True)]


def left_padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows ``(..., length_i, width)`` as one batch, with zeros on the left of the shorter ones."""
    first = rows[0]
    length = max(row.shape[-2] for row in rows)
    if all(row is first for row in rows) or len(rows) == 1:
        return first.expand(len(rows), *first.shape)
    padded = first.new_zeros(len(rows), *first.shape[:-2], length, first.shape[-1])
    for index, row in enumerate(rows):
        padded[index, ..., length - row.shape[-2] :, :] = row
    return padded


def n_bytes(row: SequenceKV) -> int:
    """Memory that a row takes."""
    return sum(part.nbytes for layer in row.values() for part in layer)

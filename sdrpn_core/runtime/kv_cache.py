"""KV caches: handed to stock models, split into single sequences, and joined into other batches.

A joined cache reads the tensors that it is made of and writes to others, so that those of one
sequence can be part of any number of caches at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
import transformers
from packaging.version import Version
from transformers import Cache, StaticCache

from sdrpn_core.runtime.in_place_cache import InPlaceLayer

#: transformers 5.24 renamed the argument everywhere, and warns about the older name.
_RENAMED_IN = Version("5.24")

#: Name of the cache in the arguments and outputs of models, decoders, layers and ``generate()``.
CACHE_NAME = "cache" if Version(transformers.__version__) >= _RENAMED_IN else "past_key_values"

#: Sizes of static caches are multiples of this: a step is compiled once per size.
_STATIC_STEP = 256

SequenceKV: TypeAlias = Mapping[int, tuple[torch.Tensor, torch.Tensor]]
"""``{layer: (keys, values)}``, each ``(heads, length, head_dim)``, of one sequence, unpadded."""


def cache_argument(cache: Cache | None) -> dict[str, Any]:
    """The cache as a keyword argument of a stock model."""
    return {CACHE_NAME: cache}


def split_cache(cache: Cache, starts: Sequence[int]) -> list[SequenceKV]:
    """Split a left-padded cache into its rows.

    Args:
        cache: of a batch; all layers in use have the same length.
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
    """``batch[row, ..., start:, :]``: a copy, unless that is the whole batch.

    A view would keep the whole batch in memory for as long as any of its rows is kept.
    """
    part = batch[row, ..., start:, :]
    return part if len(batch) == 1 and not start else part.clone()


def join_cache(
    rows: Sequence[SequenceKV],
    lengths: Sequence[int] | None = None,
    n_layers: int | None = None,
    *,
    n_columns: int = 0,
    width: int = 0,
) -> Cache:
    """Join rows into one left-padded cache; the rows do not change when it grows.

    Args:
        rows: a batch; the same row may occur several times.
        lengths: how many of each row's first tokens to take; default: all.
        n_layers: how many of the first layers to take; default: all.
        n_columns: tokens to leave room for, those of the rows included, once more come.
        width: columns that the rows take, padding included; default: as many as the longest has.
    """
    layers: list[Any] = []
    for index in rows[0]:
        if n_layers is not None and index >= n_layers:
            continue
        # A decoder may keep nothing for some layers.
        layers += [InPlaceLayer(n_columns) for _ in range(len(layers), index + 1)]
        layers[index].hold(*_joined(rows, lengths, index, width))
    return Cache(layers=layers)


def static_cache(
    config: Any,
    n_columns: int,
    rows: Sequence[SequenceKV] = (),
    lengths: Sequence[int] | None = None,
) -> StaticCache:
    """Make a stock cache of fixed size, for which stock ``generate()`` compiles a decoding step.

    Args:
        config: of the model.
        n_columns: tokens that it must have room for.
        rows: a batch that it begins with, left-padded.
        lengths: how many of each row's first tokens to take; default: all.
    """
    steps = -(-n_columns // _STATIC_STEP)
    cache = StaticCache(config=config, max_cache_len=_STATIC_STEP * steps)
    for index in rows[0] if rows else ():
        cache.update(*_joined(rows, lengths, index), index)
    return cache


def trim(cache: Cache, length: int, n_columns: int) -> None:
    """Keep the first columns of a cache, to go on behind them.

    Args:
        cache: of one that writes in place.
        length: columns to keep.
        n_columns: tokens to leave room for, those that are kept included.
    """
    layers: list[Any] = list(cache.layers)
    for layer in layers:
        if not isinstance(layer, InPlaceLayer):
            raise TypeError(f"only layers that write in place can be trimmed, not {layer}")
        if (excess := layer.get_seq_length() - length) > 0:
            layer.crop(-excess)
        layer.plan(n_columns)


def _joined(
    rows: Sequence[SequenceKV], lengths: Sequence[int] | None, index: int, width: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer's keys and values, left-padded."""
    keys, values = (
        left_padded(_first(parts, lengths), width)
        for parts in zip(*(row[index] for row in rows), strict=True)
    )
    return keys, values


def _first(parts: Sequence[torch.Tensor], lengths: Sequence[int] | None) -> Sequence[torch.Tensor]:
    if lengths is None:
        return parts
    return [part[..., :length, :] for part, length in zip(parts, lengths, strict=True)]


def left_padded(rows: Sequence[torch.Tensor], length: int = 0) -> torch.Tensor:
    """Rows ``(..., length_i, width)`` as one batch; shorter ones get zeros on the left.

    Args:
        rows: a batch.
        length: of the result, if that is more than the longest row's.
    """
    first = rows[0]
    length = max(length, *(row.shape[-2] for row in rows))
    if all(row is first for row in rows) and first.shape[-2] == length:
        return first.expand(len(rows), *first.shape)
    padded = first.new_zeros(len(rows), *first.shape[:-2], length, first.shape[-1])
    for index, row in enumerate(rows):
        padded[index, ..., length - row.shape[-2] :, :] = row
    return padded


def n_bytes(row: SequenceKV) -> int:
    """Memory of a sequence's keys and values."""
    return sum(part.nbytes for layer in row.values() for part in layer)

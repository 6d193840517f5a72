"""Layers of a KV cache that write behind what they hold, where stock ones copy all of it per token.

``DynamicCache`` concatenates: at every token, every layer allocates its keys and values anew. These
layers keep room behind the columns in use, write there, and return views of what is in use. Shapes,
masks and values are those of the stock layers that they extend, so a model computes the same.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

#: A buffer that has become too small is replaced by one with this share of room behind it, so that
#: a token is copied a constant number of times however many follow.
_GROWTH = 0.25


class _Buffer:
    """Memory for the keys, or the values, of one layer: columns in use, and room behind them.

    Args:
        planned: columns that the first allocation has room for.
    """

    def __init__(self, planned: int) -> None:
        self.planned = planned
        self._memory: torch.Tensor | None = None
        #: The view that was returned last, and its first column.
        self._last: torch.Tensor | None = None
        self._last_start = 0

    def append(self, used: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        """Write columns behind others.

        Args:
            used: ``(batch, heads, length, width)``; ``None``, or no elements, for none. It is
                copied if it lies elsewhere, or if there is no room behind it, and never written to.
            new: ``(batch, heads, n, width)``.

        Returns:
            A view ``(batch, heads, length + n, width)`` of both.
        """
        if used is not None and not used.numel():
            used = None
        start = None if used is None else self._start(used)
        n_used = 0 if used is None else used.shape[-2]
        n_all = n_used + new.shape[-2]
        if start is None or self._memory is None or start + n_all > self._memory.shape[-2]:
            self._memory = self._allocate(new, n_all, is_first=start is None)
            start = 0
            if used is not None:
                self._memory.narrow(-2, 0, n_used).copy_(used)
        self._memory.narrow(-2, start + n_used, new.shape[-2]).copy_(new)
        self._last, self._last_start = self._memory.narrow(-2, start, n_all), start
        return self._last

    def _allocate(self, like: torch.Tensor, needed: int, *, is_first: bool) -> torch.Tensor:
        grown = needed + int(_GROWTH * needed)
        capacity = self.planned if is_first and needed <= self.planned else grown
        return like.new_empty(*like.shape[:-2], max(capacity, self.planned), like.shape[-1])

    def _start(self, used: torch.Tensor) -> int | None:
        """The first column of ``used`` in the memory; ``None`` if it lies elsewhere.

        Cropping, or reordering the batch, replaces a layer's tensors: some are still views.
        """
        if used is self._last:
            return self._last_start
        memory = self._memory
        if (
            memory is None
            or used.untyped_storage().data_ptr() != memory.untyped_storage().data_ptr()
            or used.shape[:2] != memory.shape[:2]
            or used.stride() != memory.stride()
        ):
            return None
        return int(used.storage_offset()) // int(memory.stride(-2))


class InPlaceLayer(DynamicLayer):
    """Full attention. ``keys`` and ``values`` are views of the columns in use.

    Args:
        n_columns: tokens that the first allocation has room for; more may come.
    """

    def __init__(self, n_columns: int = 0) -> None:
        super().__init__()
        self._key_buffer = _Buffer(n_columns)
        self._value_buffer = _Buffer(n_columns)

    def hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Begin with tensors of somebody else's, which are read and never written to.

        Args:
            keys: ``(batch, heads, length, width)``.
            values: the same, of the values' width.
        """
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def plan(self, n_columns: int) -> None:
        """Make the next allocation, if one is needed, large enough for so many tokens."""
        self._key_buffer.planned = self._value_buffer.planned = n_columns

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the keys and values of new tokens; returns those of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._key_buffer.append(self.keys, key_states)
        self.values = self._value_buffer.append(self.values, value_states)
        return self.keys, self.values


class InPlaceSlidingLayer(DynamicSlidingWindowLayer):
    """Attention within a window. ``keys`` and ``values`` are views of the window's columns.

    The window moves through the buffer, and begins anew at its front when it has reached the end.

    Args:
        sliding_window: tokens of a window.
        n_columns: tokens that will come.
    """

    def __init__(self, sliding_window: int, n_columns: int = 0) -> None:
        super().__init__(sliding_window=sliding_window)
        planned = min(n_columns, sliding_window + int(_GROWTH * sliding_window))
        self._key_buffer = _Buffer(planned)
        self._value_buffer = _Buffer(planned)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the keys and values of a new token; returns those that it attends to."""
        # A prompt may be longer than the window, and all of it is attended to once.
        if key_states.shape[-2] > 1 or self.record_past or not self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        self.cumulative_length += 1
        keys = self._key_buffer.append(self.keys, key_states)
        values = self._value_buffer.append(self.values, value_states)
        # What the next token attends to, as the stock layer keeps it.
        self.keys = keys[:, :, -self.sliding_window + 1 :, :]
        self.values = values[:, :, -self.sliding_window + 1 :, :]
        return keys, values


def full_cache(n_layers: int, n_columns: int) -> Cache:
    """Make a cache that keeps all tokens, also those that have left a layer's window.

    Args:
        n_layers: decoder layers.
        n_columns: tokens to leave room for.
    """
    return Cache(layers=[InPlaceLayer(n_columns) for _ in range(n_layers)])


def cache_for(config: Any, n_columns: int) -> Cache:
    """Make the cache that ``generate()`` would make, with layers that write in place.

    Layers of other kinds than full and sliding attention (compressed, linear, shared ...) stay the
    stock ones, as does what is derived from these two.

    Args:
        config: of the model.
        n_columns: tokens to leave room for.
    """
    layers: list[Any] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) is DynamicLayer:
            layers.append(InPlaceLayer(n_columns))
        elif type(layer) is DynamicSlidingWindowLayer:
            layers.append(InPlaceSlidingLayer(layer.sliding_window, n_columns))
        else:
            layers.append(layer)
    return Cache(layers=layers)
